"""AP50 and AP of boxes against the true ones of pictures of the same names: `TRUTH BOXES`, both in COCO's format."""

import contextlib, io, json, sys
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(sys.argv[1])
    numbers = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
    drawn = json.load(open(sys.argv[2]))
    names = {image["id"]: image["file_name"] for image in drawn["images"]}
    keys = ("bbox", "category_id")
    found = [{**{key: a[key] for key in keys}, "image_id": numbers[names[a["image_id"]]], "score": a.get("score", 1.0)}
             for a in drawn["annotations"]]
    judge = COCOeval(truth, truth.loadRes(found), "bbox")
    judge.evaluate(), judge.accumulate(), judge.summarize()
print(json.dumps({"ap": judge.stats[0], "ap50": judge.stats[1], "boxes": len(found)}))
