"""Small images of noise on a slope, what Pillow 12 makes of them, and small residual networks with what torch and transformers say of them.

    python make.py     writes the files beside it
"""
import copy
import json
import pathlib

import numpy as np
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

here = pathlib.Path(__file__).parent
random = np.random.default_rng(12)
down, across = np.mgrid[0:9, 0:13]
pixels = (np.stack([20 * across, 25 * down, 120 + 0 * down], -1) + random.normal(0, 25, (9, 13, 3))).clip(0, 255).astype(np.uint8)
picture = Image.fromarray(pixels)
veiled = picture.convert("RGBA")
veiled.putalpha(picture.convert("L"))
files = {
    "colour.png": picture, "grey.png": picture.convert("L"), "two.png": picture.convert("1"), "palette.png": picture.quantize(9),
    "veiled.png": veiled, "grey-veiled.png": picture.convert("LA"), "colour.jpg": picture, "grey.jpg": picture.convert("L"),
    "ink.jpg": picture.convert("CMYK"),
}
expected = {}


def keep(name, image):
    expected[name] = torch.tensor(np.asarray(image.convert("RGB")).astype(np.float32))


for name, image in files.items():
    image.save(here / name)
    keep(name, Image.open(here / name))
picture.save(here / "parts.jpg", progressive=True, quality=60)
keep("parts.jpg", Image.open(here / "parts.jpg"))
# 16 bits: the upper 8 count.
Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 256 + 77).save(here / "deep.png")
keep("deep.png", Image.fromarray(pixels[:, :, 0]))
for number in range(6):
    for width, height in ((5, 4), (26, 20), (13, 3), (7, 9)):
        keep(f"{number} {width} {height}", picture.resize((width, height), number))
save_file(expected, here / "pixels.safetensors")


# Networks.

def shaken(model):
    """Running statistics and weights that change what comes out."""
    torch.manual_seed(3)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


class Small(torch.nn.Module):
    """The residual network for CIFAR-10, with shortcuts of type A."""

    class Block(torch.nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = torch.nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(outputs)
            self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.bn2 = torch.nn.BatchNorm2d(outputs)
            self.stride, self.pad = stride, (outputs - inputs) // 2

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if self.pad or self.stride != 1:
                x = torch.nn.functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.pad, self.pad))
            return torch.relu(x + y)

    def __init__(self, widths, depths, labels):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(widths[0])
        inputs = widths[0]
        for stage, (outputs, depth) in enumerate(zip(widths, depths)):
            blocks = []
            for block in range(depth):
                blocks.append(self.Block(inputs, outputs, 2 if stage and not block else 1))
                inputs = outputs
            setattr(self, f"layer{stage + 1}", torch.nn.Sequential(*blocks))
        self.stages = len(widths)
        self.linear = torch.nn.Linear(inputs, labels)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.linear(x.mean((2, 3)))


def gradients(model, images):
    """The loss of classes 0, 1 and 2, and the length of each parameter's gradient: by running statistics, and by the batch's."""
    found = {}
    for name, trains in (("running", False), ("batch", True)):
        own = copy.deepcopy(model).train(trains)
        said = own(images)
        loss = torch.nn.functional.cross_entropy(getattr(said, "logits", said), torch.arange(3))
        loss.backward()
        found[name] = {"loss": loss.item(), "gradients": {name: value.grad.norm().item() for name, value in own.named_parameters()}}
    return found


if __name__ == "__main__":
    learned = {}
    torch.manual_seed(4)
    images = torch.randn(3, 3, 14, 10)
    asked = {"images": images}
    for name, keys in {
        "basic": dict(layer_type="basic", hidden_sizes=[4, 6], depths=[2, 1], embedding_size=4),
        "bottleneck": dict(layer_type="bottleneck", hidden_sizes=[8, 12], depths=[1, 2], embedding_size=4, downsample_in_bottleneck=True,
                           downsample_in_first_stage=True),
    }.items():
        config = transformers.ResNetConfig(**keys, num_labels=7, architectures=["ResNetForImageClassification"])
        model = shaken(transformers.ResNetForImageClassification(config))
        model.save_pretrained(here / name)
        with torch.no_grad():
            asked[name] = model(images).logits
        learned[name] = gradients(model, images)
    model = shaken(Small([4, 8], [1, 2], 7))
    (here / "small").mkdir(exist_ok=True)
    save_file(model.state_dict(), here / "small" / "model.safetensors")
    (here / "small" / "config.json").write_text(
        json.dumps({"model_type": "resnet-cifar", "hidden_sizes": [4, 8], "depths": [1, 2], "num_labels": 7}))
    with torch.no_grad():
        asked["small"] = model(images)
    learned["small"] = gradients(model, images)
    (here / "gradients.json").write_text(json.dumps(learned))
    save_file(asked, here / "logits.safetensors")
