"""An HTTP server, narrow networks whose every layer responds, and torchvision's own network with narrow layers."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images

from alexnet.api import create_transform
from alexnet.models.registry import create_model


class Server(ThreadingHTTPServer):
    """``behave(handler, start)`` answers a request for the bytes from ``start`` on; ``requests`` are those made.

    As long as ``behave`` is not set, it sends ``data``.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.behave = lambda handler, start: handler.send_file(self.data, start)
        self.data = b""

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/weights.bin"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.behave(self, int(asked[1]) if asked else 0)

    def send_file(self, data, start=0, stated=None, sent=None):
        """The bytes from ``start`` on; ``stated``: another Content-Length; ``sent``: how many are really sent."""
        if start >= len(data) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if stated != "none":
            self.send_header("Content-Length", str(len(data) - start if stated is None else stated))
        self.end_headers()
        self.wfile.write(data[start:][:sent])
        self.close_connection = True

    def log_message(self, *given):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("alexnet.weights.download.PAUSE", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Server()
    thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield one
    one.shutdown()
    one.server_close()
    thread.join()


@pytest.fixture(scope="session")
def photographs():
    """Network → four real images as its input ``(4, C, S, S)``."""

    def preprocess(model):
        mode = "L" if model.in_channels == 1 else "RGB"
        images = [Image.fromarray(image).convert(mode) for image in load_sample_images().images]
        images += [image.crop((50, 100, 350, 400)) for image in images]
        transform = create_transform(model)
        return torch.stack([transform(image) for image in images])

    return preprocess


@pytest.fixture(scope="session")
def narrow_network(lively):
    """Variant → its network with an eighth of the filters and units, in evaluation mode."""

    def build(name, num_classes=7, in_channels=3, width=0.125, **settings):
        return lively(
            create_model(name, num_classes=num_classes, in_channels=in_channels, seed=0, width=width, **settings)
        )

    return build


@pytest.fixture(scope="session")
def narrow_torchvision(lively):
    """torchvision's AlexNet whose layers are replaced by layers with an eighth of the filters and units."""

    def build(num_classes=1000):
        with torch.device("meta"):
            network = torchvision.models.alexnet(num_classes=num_classes)
        for number, layer in enumerate(network.features):
            if isinstance(layer, torch.nn.Conv2d):
                inputs = layer.in_channels if number == 0 else layer.in_channels // 8
                network.features[number] = torch.nn.Conv2d(
                    inputs, layer.out_channels // 8, layer.kernel_size, layer.stride, layer.padding
                )
        for number, layer in enumerate(network.classifier):
            if isinstance(layer, torch.nn.Linear):
                outputs = layer.out_features if number == 6 else layer.out_features // 8
                network.classifier[number] = torch.nn.Linear(layer.in_features // 8, outputs)
        return lively(network)

    return build
