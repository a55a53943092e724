"""One frozen Settings object, read from the environment once and passed along; nothing reads the environment later."""

import ipaddress
import os
from pathlib import Path
from typing import Literal, Self

import psutil
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MiB = 1024**2
GiB = 1024**3


GPU_DRIVERS = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
DIVIDED = (
    "model_memory_bytes",
    "inference_queue",
    "max_bodies_bytes",
    "max_decoding_bytes",
)  # among the processes that serve


class Settings(BaseSettings):
    """Every knob of the service and the worker. Field `x_y` is read from the environment variable `FOVEA_X_Y`."""

    model_config = SettingsConfigDict(env_prefix="FOVEA_", env_ignore_empty=True, frozen=True, extra="ignore")

    data: Path = Field(Path("fovea-data"), description="folder for everything Fovea keeps")
    host: str = Field("127.0.0.1", description="address the service binds")
    port: int = Field(8000, ge=0, le=65535, description="port the service binds; 0 takes a free one")
    database_url: str | None = Field(
        None, repr=False, description="postgresql+psycopg://…; default is SQLite in the data folder"
    )
    auth: Literal["on", "off"] = Field("on", description="off lets anybody in; allowed on a loopback bind only")
    admin_key: str | None = Field(None, min_length=16, repr=False, description="admin key, instead of a generated one")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="device to train and predict on")

    max_upload_bytes: int = Field(10 * GiB, gt=0, description="largest archive accepted")
    max_uploads: int = Field(100, gt=0, description="most resumable uploads that are open at the same time")
    upload_seconds: float = Field(7 * 86400, gt=0, description="a resumable upload without news for this long goes")
    max_bundle_bytes: int = Field(GiB, gt=0, description="largest bundle that is imported as a model version")
    max_archive_entries: int = Field(200_000, gt=0, description="most entries in an archive")
    max_unpacked_bytes: int = Field(100 * GiB, gt=0, description="largest sum of unpacked sizes in an archive")
    max_image_bytes: int = Field(64 * MiB, gt=0, description="largest picture file")
    max_image_pixels: int = Field(50_000_000, gt=0, description="largest picture, in pixels")
    max_classify_images: int = Field(256, gt=0, description="most pictures in one classify request")
    max_classify_bytes: int = Field(256 * MiB, gt=0, description="largest body of one classify request")
    max_bodies_bytes: int = Field(
        GiB, gt=0, description="pictures being answered, in bytes, beyond which 503 is answered"
    )
    max_decoding_bytes: int = Field(
        512 * MiB, gt=0, description="memory of the pictures being decoded together; one alone may need more"
    )
    max_infer_json_bytes: int = Field(16 * MiB, gt=0, description="largest JSON part of one request to /v2")
    max_body_bytes: int = Field(1 * MiB, gt=0, description="largest JSON body other than classify's")
    max_training_memory_bytes: int | None = Field(
        None, gt=0, description="most memory a training may need; default 80 %"
    )
    disk_reserve_bytes: int = Field(512 * MiB, ge=0, description="free disk below which uploads are refused (507)")
    header_timeout_seconds: float = Field(
        30.0, gt=0, description="longest time from the first byte of a request, or a connection, to the last header"
    )
    receive_timeout_seconds: float = Field(30.0, gt=0, description="longest silence of a client while it sends a body")

    decode_memory_bytes: int = Field(2 * GiB, gt=0, description="address space a picture decoder may add to its own")
    decode_timeout_seconds: float = Field(20.0, gt=0, description="longest time one picture may take to decode")
    decode_processes: int = Field(0, ge=0, description="picture decoders of one import; 0 is one per core")

    max_predictions: int = Field(100_000, gt=0, description="most pictures kept by ?store=true; oldest unlabelled go")
    max_prediction_bytes: int = Field(20 * GiB, gt=0, description="most bytes of pictures kept by ?store=true")

    max_queued_jobs: int = Field(1000, gt=0, description="jobs that wait beyond which no other is accepted (429)")
    lease_seconds: float = Field(30.0, gt=0, description="a worker silent for this long has lost its job")
    poll_seconds: float = Field(0.5, gt=0, description="how often a worker looks for work and requests")
    checkpoint_seconds: float = Field(30.0, gt=0, description="longest training time between two checkpoints")
    max_crashes: int = Field(3, gt=0, description="deaths without progress after which a job is failed")
    stuck_seconds: float = Field(900.0, gt=0, description="a job without a step for this long is ended as failed")
    weights_dir: Path | None = Field(None, description="folder of pretrained weights: <network>.safetensors or .pth")
    threads: int = Field(0, ge=0, description="threads of a training job; 0 is one per core")

    engine: Literal["auto", "torch", "onnxruntime", "openvino"] = Field(
        "auto", description="inference engine; auto is the fastest that was certified for the model version"
    )
    model_memory_bytes: int = Field(2 * GiB, gt=0, description="memory for loaded models; least recently used go first")
    inference_threads: int = Field(0, ge=0, description="threads of the inference engine; 0 is one per core")
    inference_queue: int = Field(512, gt=0, description="pictures being answered beyond which 503 is answered")
    queue_seconds: float = Field(2.0, gt=0, description="expected wait for the engine beyond which 503 is answered")
    answer_seconds: float = Field(60.0, gt=0, description="longest time from a request's body to its answer, then 503")
    max_batch: int = Field(64, gt=0, description="most pictures in one pass of the engine")
    pass_ms: float = Field(
        100.0, gt=0, description="longest pass of the engine aimed at, where others wait for the next"
    )
    processes: int = Field(
        1, ge=1, description="processes that serve; memory, queue and threads are divided among them"
    )

    @field_validator("data")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @model_validator(mode="after")
    def _auth_off_stays_on_loopback(self) -> Self:
        if self.auth == "off" and not is_loopback(self.host):
            raise ValueError(
                "FOVEA_AUTH=off needs a loopback FOVEA_HOST such as 127.0.0.1; anybody could reach this one"
            )
        return self

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data / 'fovea.db'}"

    @property
    def engine_threads(self) -> int:
        """Of the process that answers, and of the trial that certifies for it."""
        return self.inference_threads or os.cpu_count() or 1

    @property
    def training_threads(self) -> int:
        """Of a job: a second thread on a core has nothing to add to what the first computes."""
        return self.threads or psutil.cpu_count(logical=False) or 1

    @property
    def on_gpu(self) -> bool:
        """Without asking torch, whose import takes seconds."""
        return self.device.startswith("cuda") or (self.device == "auto" and any(path.exists() for path in GPU_DRIVERS))

    def share(self) -> Self:
        """What each of the `processes` gets of what they divide among them."""
        each = {name: max(getattr(self, name) // self.processes, 1) for name in DIVIDED}
        threads = max(self.engine_threads // self.processes, 1)
        return self if self.processes == 1 else self.model_copy(update={**each, "inference_threads": threads})

    def url(self, port: int | None = None) -> str:
        """Where a program or a browser on this machine finds the service; any address is reached by the first."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host else host}:{port or self.port}"

    @property
    def uploads(self) -> Path:
        """Bodies on their way. At the start only those of resumable uploads are kept."""
        return self.data / "uploads"

    @property
    def archives(self) -> Path:
        """Uploaded archives, named by their SHA-256."""
        return self.data / "archives"

    @property
    def predictions(self) -> Path:
        """Pictures of kept predictions, named by their SHA-256."""
        return self.data / "predictions"

    @property
    def cache(self) -> Path:
        """Packed pixels, rebuilt from the archives when missing."""
        return self.data / "cache"

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def admin_key_file(self) -> Path:
        return self.data / "admin.key"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
