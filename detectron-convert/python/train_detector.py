#!/usr/bin/env python3
"""Trains and evaluates Detectron2 detectors that start from an encoder.

`occlude-detectron convert` writes the two files that this script takes, `occlude-detectron driver` writes the script:

    python train_detector.py --config-file encoder.yaml --weights encoder.pkl --num-gpus 8
    python train_detector.py --config-file encoder.yaml --weights output/model_final.pth --num-gpus 8 --eval-only

Settings of Detectron2 may follow as KEY VALUE pairs: `OUTPUT_DIR runs/1 SOLVER.IMS_PER_BATCH 8`.
"""

import argparse
import json
import logging
import os
import re
import sys
import weakref

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_setup, launch
from detectron2.evaluation import COCOEvaluator, PascalVOCDetectionEvaluator
from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import Res5ROIHeads

log = logging.getLogger("detectron2.occlude")

# Where Detectron2 puts the encoder: `backbone` (C4), `backbone.bottom_up` (FPN), and res5 as the head of C4.
ENCODER = re.compile(r"(backbone\.(bottom_up\.)?(stem|res[2-5])|roi_heads\.res5\.\d+)\.")
# What the loader may leave as it is: files of old PyTorch have no counters, and nothing depends on them.
OPTIONAL = re.compile(r"\.num_batches_tracked$")

NORM_KEYS = ("RESNETS", "FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD")
SYNCHRONISED = ("SyncBN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N")


class Problem(Exception):
    """What the user has to put right."""


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeads):
    """The C4 head with one more normalisation behind res5.

    Without it the fine-tuned res5 ends in an unnormalised sum (https://arxiv.org/abs/1911.05722, appendix).
    """

    @classmethod
    def _build_res5_block(cls, cfg):
        res5, channels = super()._build_res5_block(cfg)
        res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return res5, channels


def encoder_keys(model):
    """Names of the encoder's parameters and buffers in a detector, without counters."""
    return [key for key in model.state_dict() if ENCODER.match(key) and not OPTIONAL.search(key)]


def without_synchronisation(cfg):
    """Replaces SyncBN by BN where there is nothing to synchronise with; returns the keys that changed."""
    changed = []
    for section in NORM_KEYS:
        if cfg.MODEL[section].NORM in SYNCHRONISED:
            cfg.MODEL[section].NORM = "BN"
            changed.append(f"MODEL.{section}.NORM")
    return changed


def doubtful_settings(cfg):
    """Settings that an encoder of torchvision's kind cannot work well with, in words."""
    wrong = []
    if cfg.INPUT.FORMAT != "RGB":
        wrong.append(f"INPUT.FORMAT is {cfg.INPUT.FORMAT}: the encoder was trained on RGB")
    if cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.RESNETS.DEPTH >= 50:
        wrong.append("MODEL.RESNETS.STRIDE_IN_1X1 is True: the encoder strides in its 3x3 convolutions")
    if min(cfg.MODEL.PIXEL_STD) <= 1:
        wrong.append(f"MODEL.PIXEL_STD is {list(cfg.MODEL.PIXEL_STD)}: the encoder was trained on normalised pixels")
    if cfg.MODEL.RESNETS.NORM == "FrozenBN":
        wrong.append("MODEL.RESNETS.NORM is FrozenBN: self-supervised encoders need their statistics updated")
    if cfg.MODEL.BACKBONE.FREEZE_AT > 0:
        wrong.append(f"MODEL.BACKBONE.FREEZE_AT is {cfg.MODEL.BACKBONE.FREEZE_AT}: the published protocols freeze nothing")
    return wrong


class EncoderCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, except that an encoder that is not complete is an error.

    Detectron2 itself warns about weights that match nothing and goes on from random ones.
    """

    def __init__(self, *args, whole_detector=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.whole_detector = whole_detector

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        absent = {key for key in incompatible.missing_keys if not OPTIONAL.search(key)}
        absent.update(key for key, *_ in incompatible.incorrect_shapes)
        wanted = encoder_keys(self.model)
        missing = [key for key in wanted if key in absent]
        if missing:
            raise Problem(
                f"the weights lack {len(missing)} of {len(wanted)} encoder tensors:\n  " + "\n  ".join(missing)
                + "\nhint: the weights and the YAML must be of one `occlude-detectron convert`; `occlude-detectron verify` tells more"
            )
        heads = sorted(absent - set(wanted))
        if heads and self.whole_detector:
            raise Problem(
                f"the weights are an encoder without {len(heads)} tensors of the detector, such as `{heads[0]}`: nothing to"
                " evaluate\nhint: give the trained detector, `--weights output/model_final.pth`, or `--resume`"
            )
        log.info("all %d encoder tensors loaded; %d tensors of the detector start at random", len(wanted), len(heads))
        return incompatible


class Trainer(DefaultTrainer):
    """Detectron2's trainer with the strict checkpointer and an evaluator for COCO's and VOC's kind of data."""

    def build_hooks(self):
        # Some hooks keep the checkpointer, so it is replaced before they are made.
        model, folder = self.checkpointer.model, self.cfg.OUTPUT_DIR
        self.checkpointer = EncoderCheckpointer(model, folder, trainer=weakref.proxy(self))
        return super().build_hooks()

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        kind = MetadataCatalog.get(dataset_name).get("evaluator_type")
        if kind == "pascal_voc":
            return PascalVOCDetectionEvaluator(dataset_name)
        if kind == "coco":
            return COCOEvaluator(dataset_name, output_dir=output_folder or os.path.join(cfg.OUTPUT_DIR, "inference"))
        raise Problem(f"data set `{dataset_name}` is of the kind `{kind}`; this script evaluates `coco` and `pascal_voc`")


def register(cfg, sets):
    """Makes the user's COCO-format sets known under their names, after a look at what would fail hours later."""
    for name, annotations, images in sets:
        for path in (annotations, images):
            if not os.path.exists(path):
                raise Problem(f"data set `{name}`: `{path}` does not exist")
        if name not in MetadataCatalog.list():
            register_coco_instances(name, {}, annotations, images)
        if name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
            check_annotations(cfg, name, annotations)


def check_annotations(cfg, name, path):
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    classes = len(data.get("categories", []))
    if classes != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise Problem(
            f"data set `{name}` has {classes} categories, the detector {cfg.MODEL.ROI_HEADS.NUM_CLASSES}"
            f"\nhint: append `MODEL.ROI_HEADS.NUM_CLASSES {classes}`"
        )
    trained = name in cfg.DATASETS.TRAIN
    if trained and cfg.MODEL.MASK_ON and not all(a.get("segmentation") for a in data.get("annotations", [])):
        raise Problem(f"data set `{name}` has boxes without masks\nhint: append `MODEL.MASK_ON False`")


def configure(args):
    """The YAML, then the flags, then the pairs at the end of the command line; the last one wins."""
    if not os.path.isfile(args.config_file):
        raise Problem(f"`{args.config_file}` does not exist")
    cfg = get_cfg()
    cfg.merge_from_file(args.config_file)
    if args.weights:
        cfg.MODEL.WEIGHTS = args.weights
    cfg.merge_from_list(args.opts)
    if cfg.MODEL.DEVICE == "cuda" and (args.num_gpus == 0 or not torch.cuda.is_available()):
        print("note: no GPU: MODEL.DEVICE is cpu", file=sys.stderr)
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu" or args.num_gpus * args.num_machines <= 1:
        changed = without_synchronisation(cfg)
        if changed:
            print(f"note: one process: BN instead of SyncBN in {', '.join(changed)}", file=sys.stderr)
    if not (args.resume or os.path.isfile(cfg.MODEL.WEIGHTS)):
        raise Problem(f"the weights `{cfg.MODEL.WEIGHTS}` do not exist\nhint: name them with `--weights`")
    for line in doubtful_settings(cfg):
        print(f"warning: {line}", file=sys.stderr)
    return cfg


def work(args):
    """What each process does."""
    cfg = configure(args)
    register(cfg, args.register)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = EncoderCheckpointer(model, save_dir=cfg.OUTPUT_DIR, whole_detector=True)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def arguments(words=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config-file", required=True, metavar="YAML", help="settings, as `occlude-detectron convert` writes them")
    add("--weights", metavar="FILE", help="encoder (.pkl) or trained detector (.pth); default: MODEL.WEIGHTS of the YAML")
    add("--register", nargs=3, action="append", default=[], metavar=("NAME", "JSON", "IMAGES"),
        help="a data set in COCO's format: its name for DATASETS.TRAIN and DATASETS.TEST, annotations, folder of images")
    add("--eval-only", action="store_true", help="evaluate the weights on DATASETS.TEST, do not train")
    add("--resume", action="store_true", help="go on from the last checkpoint in OUTPUT_DIR, if there is one")
    add("--num-gpus", type=int, default=1, metavar="N", help="GPUs of this machine; 0: train on the CPU; default 1")
    add("--num-machines", type=int, default=1, metavar="N", help="machines; default 1")
    add("--machine-rank", type=int, default=0, metavar="N", help="number of this machine, from 0")
    add("--dist-url", default="auto", metavar="URL",
        help="tcp://HOST:PORT of machine 0; default: any free port, for one machine")
    add("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings of Detectron2 that replace the YAML's")
    return parser.parse_args(words)


def main():
    args = arguments()
    try:
        launch(work, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,))
    except Problem as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
