"""The sections of the configuration: each setting with its default and what it may be."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    field_validator,
    model_validator,
)

from node.core.conditions import Wanted, wanted_from
from node.core.model import Profile
from node.core.result import Compression
from node.core.suggest import did_you_mean
from node.core.verdict import Verdict
from node.core.volume import NATIVE, parse_orientation
from node.core.wants import PROFILES, wants_of

Port = Annotated[int, Field(ge=1, le=65535)]
ListeningPort = Annotated[int, Field(ge=0, le=65535)]  # 0: none
_AE_TITLE = re.compile(r" *[!-\[\]-~][ -\[\]-~]*")
_URL = re.compile(r"https?://[^/@?#\s]+(/[^@?#\s]*)?")


def _is_ae_title(text: str) -> str:
    if len(text) > 16 or not _AE_TITLE.fullmatch(text):
        raise ValueError(
            f'"{text}" is no AE title: 1 to 16 characters of ASCII, no backslash, not only blanks '
            "(PS3.5 6.2)"
        )
    return text


def _is_url(text: str) -> str:
    """No user information, query or fragment: what stands in a URL is logged."""
    if not _URL.fullmatch(text):
        raise ValueError("has to begin with http:// or https://, without user, query or fragment")
    return text


AETitleText = Annotated[str, AfterValidator(_is_ae_title)]
UrlText = Annotated[str, AfterValidator(_is_url)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


class NodeSection(Section):
    data_dir: Path = Path("var")
    min_free_mb: int = Field(500, ge=0)
    low_free_mb: int = Field(5000, ge=0)
    max_aside_mb: int = Field(1000, ge=0)


class DatabaseSection(Section):
    url: Literal["sqlite"] = "sqlite"


class AcceptSection(Section):
    volumes: bool = True
    images: bool = True
    documents: bool = True
    other: bool = True


class TlsSection(Section):
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    require_client_certificate: bool | None = None  # where there is a ca
    port: ListeningPort = 2762  # dicom-tls

    @model_validator(mode="after")
    def _pair(self) -> "TlsSection":
        if self.key and not self.certificate:
            raise ValueError("key needs its certificate beside it")
        if self.require_client_certificate and not self.ca:
            raise ValueError("require_client_certificate needs the ca that signs those of peers")
        return self

    @property
    def listens(self) -> bool:
        """Whether Peers may come by TLS."""
        return self.certificate is not None and self.port != 0

    @property
    def clients_ca(self) -> Path | None:
        """Who signs the certificates that Peers have to show; None: they show none."""
        return None if self.require_client_certificate is False else self.ca


class DicomSection(Section):
    ae_title: AETitleText = "SEGNODE"
    host: str = "127.0.0.1"
    port: ListeningPort = 11112
    accept_from: tuple[str, ...] | None = None  # every peer that is named
    check_called_ae_title: bool = False
    max_associations: int = Field(25, ge=1, le=500)
    max_associations_per_peer: int = Field(10, ge=1)
    max_instance_mb: int = Field(4000, ge=1)
    idle_seconds: float = Field(60.0, gt=0)
    associate_seconds: float = Field(10.0, gt=0)
    max_pdu_kib: int = Field(128, ge=4, le=1024)
    accept: AcceptSection = AcceptSection()
    tls: TlsSection = TlsSection()

    @model_validator(mode="after")
    def _listens(self) -> "DicomSection":
        if self.port == 0 and not self.tls.listens:
            raise ValueError("port = 0 leaves TLS alone, which needs tls.certificate and tls.port")
        if self.tls.listens and self.tls.port == self.port:
            raise ValueError(f"port and tls.port are both {self.port}; TLS needs one of its own")
        return self


class ResultsSection(Section):
    """What a Peer gets, where that differs from its profile; None: as the profile has it."""

    segmentation: Literal["binary", "labelmap", "fractional", "none"] | None = None
    empty_frames: bool | None = None
    max_frames: int | None = Field(None, ge=0)
    compression: Compression | None = None
    report: bool | None = None
    structure_set: bool | None = None
    capture: bool | None = None
    refusal_report: bool | None = None
    rejection_note: bool | None = None


class PeerSection(Section):
    ae_title: AETitleText | None = None
    host: str | None = None
    port: Port | None = None
    timeout_seconds: float = Field(30.0, gt=0)
    query: bool = False
    queries_per_second: float = Field(20.0, gt=0)
    may_store: bool = True
    commitment: bool = False
    commitment_ae_title: AETitleText | None = None  # that of the Peer itself
    max_associations: int = Field(1, ge=1, le=50)
    tls: bool = False
    tls_ca: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_verify_host_name: bool = True
    url: UrlText | None = None
    user: str | None = None
    password: SecretStr | None = None
    token: SecretStr | None = None
    profile: str = "default"
    results: ResultsSection = ResultsSection()

    @field_validator("profile")
    @classmethod
    def _known(cls, profile: str) -> str:
        if profile not in PROFILES:
            raise ValueError(
                f'there is no profile "{profile}"{did_you_mean(profile, list(PROFILES))}; '
                f"known are {', '.join(PROFILES)}"
            )
        return profile

    @model_validator(mode="after")
    def _consistent(self) -> "PeerSection":
        wants_of(self.profile, self.results.model_dump())
        return self

    @model_validator(mode="after")
    def _can_be_reached(self) -> "PeerSection":
        address = (self.ae_title, self.host, self.port)
        if not all(address) and (any(address) or not self.url):
            raise ValueError("needs ae_title, host and port, or a url (DICOMweb)")
        if not all(address) and (self.tls or self.commitment or self.query):
            raise ValueError("tls, commitment and query need ae_title, host and port")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together")
        if self.user is not None and self.token is not None:
            raise ValueError("has both a user and a token; which of them?")
        if not self.url and (self.user is not None or self.token is not None):
            raise ValueError("user, password and token are for a url")
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_key needs its tls_certificate beside it")
        return self


class ClosingSection(Section):
    settle_seconds: float = Field(3.0, gt=0)
    quiet_seconds: float = Field(10.0, gt=0)
    last_limit_seconds: float = Field(3600.0, gt=0)
    answer_seconds: float = Field(120.0, gt=0)
    images_in_acquisition: bool = True


class InferenceSection(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    backend: Literal["auto", "torch", "openvino"] = "auto"
    threads: int = Field(0, ge=0)
    workers: int = Field(1, ge=1, le=16)
    jobs_in_flight: int = Field(2, ge=1, le=8)
    memory_mb: int = Field(0, ge=0)
    max_attempts: int = Field(3, ge=1)
    timeout_seconds: float = Field(3600.0, gt=0)
    heartbeat_seconds: float = Field(60.0, ge=5)


class DeliverySection(Section):
    retry_first_seconds: float = Field(5.0, gt=0)
    retry_max_seconds: float = Field(3600.0, gt=0)
    confirm_seconds: float = Field(60.0, gt=0)


class RetentionSection(Section):
    delivered_days: float = Field(7.0, ge=0)
    failed_days: float = Field(30.0, ge=0)
    unrouted_days: float = Field(7.0, ge=0)


class WebSection(Section):
    host: str = "127.0.0.1"
    port: Port = 8080


class LogSection(Section):
    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


def _orientation(value: Any) -> Any:
    if not isinstance(value, str) or value == NATIVE:
        return value
    return parse_orientation(value)


Orientation = Annotated[str, BeforeValidator(_orientation)]


class ModelSection(Section):
    path: Path
    orientation: Orientation | None = None
    profile: Profile | None = None


Condition = Annotated[Wanted, PlainValidator(wanted_from)]


class RouteSection(Section):
    name: str = Field(min_length=1)
    model: str
    send_to: tuple[str, ...]
    when: dict[str, Condition] = {}
    channels: dict[str, dict[str, Condition]] = {}
    wait_seconds: float = Field(600.0, gt=0)
    priority: int = Field(0, ge=-1000, le=1000)
    least_verdict: Verdict = Verdict.CONSISTENT
    settle_seconds: float | None = Field(None, gt=0)
    quiet_seconds: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> "RouteSection":
        if self.when and self.channels:
            raise ValueError(
                f'route "{self.name}": has both "when" and "channels"; a Model that reads several '
                "Series takes channels, any other takes when"
            )
        return self
