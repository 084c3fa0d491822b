"""Reads the event files of a folder as TensorBoard does; see tensorboard.rs."""

import sys

from tensorboard.backend.event_processing import event_accumulator, plugin_event_accumulator

folder = sys.argv[1]

# the reader of `tensorboard --load_fast=false`, after which later steps of the older file are gone
new = plugin_event_accumulator.EventAccumulator(folder)
new.Reload()
assert new.file_version == 2.0, new.file_version
losses = [(e.step, float(e.tensor_proto.float_val[0])) for e in new.Tensors("train/loss")]
assert losses == [(10, 40.0), (20, 30.0), (25, 0.5)], losses
text = new.Tensors("config")[0].tensor_proto.string_val
assert list(text) == [b"**bold**"], text
assert new.SummaryMetadata("config").plugin_data.plugin_name == "text"
assert new.SummaryMetadata("first batch").plugin_data.plugin_name == "images"

old = event_accumulator.EventAccumulator(folder)
old.Reload()
assert [e.step for e in old.Scalars("train/loss")] == [10, 20, 25]
assert old.Scalars("train/loss")[0].wall_time == 1.7e9 + 10
image = old.Images("first batch")[0]
assert (image.width, image.height) == (1, 1) and image.encoded_image_string.startswith(b"\x89PNG")
