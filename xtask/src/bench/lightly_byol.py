"""The peer of the BYOL rows of the benchmark `train`: BYOL of the package `lightly`, put together as its documentation does,
with the heads and the optimiser of the paper and two loader processes.

Arguments: folder of images, folder that the package was installed into. Trains two epochs; prints the second's images/s."""

import copy
import json
import sys
import time

images, packages = sys.argv[1:]
sys.path.append(packages)

import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NegativeCosineSimilarity
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.byol_transform import BYOLTransform, BYOLView1Transform, BYOLView2Transform
from lightly.utils.lars import LARS
from torch import nn

BATCH, SIZE, HIDDEN, DIM, MOMENTUM = 128, 64, 4096, 256, 0.996


class BYOL(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.projection_head = BYOLProjectionHead(512, HIDDEN, DIM)
        self.prediction_head = BYOLPredictionHead(DIM, HIDDEN, DIM)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, x):
        return self.prediction_head(self.projection_head(self.backbone(x).flatten(start_dim=1)))

    def forward_momentum(self, x):
        return self.projection_head_momentum(self.backbone_momentum(x).flatten(start_dim=1)).detach()


def main():
    model = BYOL(nn.Sequential(*list(torchvision.models.resnet18().children())[:-1]))
    views = BYOLTransform(
        view_1_transform=BYOLView1Transform(input_size=SIZE), view_2_transform=BYOLView2Transform(input_size=SIZE)
    )
    dataset = LightlyDataset(images, transform=views)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, num_workers=2)
    criterion = NegativeCosineSimilarity()
    optimizer = LARS(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1.5e-6)
    for _ in range(2):
        began, seen = time.perf_counter(), 0
        for batch in loader:
            first, second = batch[0]
            update_momentum(model.backbone, model.backbone_momentum, m=MOMENTUM)
            update_momentum(model.projection_head, model.projection_head_momentum, m=MOMENTUM)
            one, two = model.forward_momentum(first), model.forward_momentum(second)
            loss = 0.5 * (criterion(model(first), two) + criterion(model(second), one))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen += len(first)
        rate = seen / (time.perf_counter() - began)
    print(json.dumps({"images_per_s": rate}))


if __name__ == "__main__":
    main()
