"""`segnode check`: everything that must be right before images arrive, one line each."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from node.check_peers import check_peers
from node.check_results import without_effect
from node.configured.peers import peers_of
from node.configured.receiving import accepted_titles, negotiation_of, why_nobody
from node.configured.routes import route_of
from node.core.config import Config
from node.core.errors import ConfigError
from node.core.model import Model, Profile
from node.core.names import AETitle
from node.dicom.inbox import Inbox
from node.dicom.receiver.negotiation import DEFLATED_REASON
from node.dicom.routing import with_models
from node.dicom.tls import server_context
from node.dicom.uid_names import uid_name
from node.finding import Finding, Verdict
from node.inference import devices
from node.inference.model import load_model
from node.store import database
from node.store.lock import running_node


def check(config: Config) -> Iterator[Finding]:
    """Looks at data folder, database, Models, Routes, listening port and every Peer."""
    yield from _data_folder(config)
    yield _database(config)
    yield from _device(config)
    models: dict[str, Model] = {}
    yield from _models(config, models)
    yield from _routes(config, models)
    yield from _listening(config)
    yield from _negotiation(config)
    yield from without_effect(config)
    needed = {name for route in config.routes for name in route.send_to}
    yield from check_peers(
        peers_of(config),
        AETitle(config.dicom.ae_title),
        needed=needed,
        queried={name for name, peer in config.peers.items() if peer.query},
    )


def _data_folder(config: Config) -> Iterator[Finding]:
    folder = config.node.data_dir
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    yield _free_space(config, shutil.disk_usage(nearest).free // 1_000_000)
    if (fault := _cannot_write(nearest)) is not None:
        yield Finding("FAULT", "disk", f"{folder} cannot be written: {fault}")
    if (folder / "aside").is_dir() and (count := Inbox(folder).aside_count()):
        yield Finding("note", "aside", f"{folder / 'aside'}: {count} data sets were set aside")


def _free_space(config: Config, free_mb: int) -> Finding:
    section = config.node
    if free_mb < section.min_free_mb:
        sentence = f"only {free_mb} MB are free; node.min_free_mb = {section.min_free_mb}"
        return Finding("FAULT", "disk", f"{section.data_dir}: {sentence}: instances get 0xA700")
    marks = f"told below {section.low_free_mb}, instances get 0xA700 below {section.min_free_mb}"
    verdict: Verdict = "note" if free_mb < section.low_free_mb else "ok"
    return Finding(verdict, "disk", f"{section.data_dir}: {free_mb} MB free; {marks}")


def _cannot_write(folder: Path) -> str | None:
    """Why not; None where a file can be made, fsynced and removed."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".segnode-check-") as file:
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None


def _negotiation(config: Config) -> Iterator[Finding]:
    """The table of what a sender may propose."""
    offered = negotiation_of(config)
    for kind, classes in offered.by_kind.items():
        accepted = "accepted" if classes[0] in offered.accepted else "refused"
        sentence = f"{accepted}: {len(classes)} SOP Classes; dicom.accept.{kind}"
        yield Finding("ok", f"receive {kind}", sentence)
    names = ", ".join(uid_name(uid) for uid in offered.transfer_syntaxes)
    yield Finding("ok", "receive syntaxes", names)
    yield Finding("ok", "receive syntaxes", f"Deflated {DEFLATED_REASON}")
    echo_only = [name for name, peer in config.peers.items() if not peer.may_store]
    if echo_only:
        yield Finding("note", "receive", f"may not store (0x0124): {', '.join(echo_only)}")


def _database(config: Config) -> Finding:
    path = config.node.data_dir / database.FILE_NAME
    if not path.exists():
        return Finding("ok", "database", f"{path}: will be made at the first start")
    try:
        engine = database.connect(config.node.data_dir)
        database.require_current(engine)
        engine.dispose()
    except Exception as error:  # any fault of the file is a finding here
        return Finding("FAULT", "database", str(error))
    return Finding("ok", "database", str(path))


def _device(config: Config) -> Iterator[Finding]:
    section = config.inference
    try:
        sentence = devices.sentence(section.device, section.threads, section.backend)
    except ValueError as error:
        yield Finding("FAULT", "device", f'inference.device = "{section.device}": {error}')
        return
    yield Finding("ok", "device", sentence)
    if devices.nvml_is_missing():
        yield Finding("note", "device", devices.NVML_MISSING)


def _models(config: Config, found: dict[str, Model]) -> Iterator[Finding]:
    if not config.models:
        yield Finding("FAULT", "models", "there are none in the configuration")
    for name, section in config.models.items():
        try:
            model = load_model(name, section.path, section.orientation, section.profile)
        except ConfigError as error:
            yield Finding("FAULT", f"model {name}", str(error))
            continue
        found[name] = model
        yield Finding("ok", f"model {name}", f"{model.title} {model.version}, {section.path}")
        if model.profile is not Profile.EXACT:
            yield Finding(
                "note",
                f"model {name}",
                f"does not run exact but with profile {model.profile}: its answers differ from "
                "nnU-Net's, and its results say so",
            )
        if model.orientation_assumed:
            yield Finding(
                "note",
                f"model {name}",
                f"nobody says how its training arrays lay; {model.orientation} is assumed: "
                'write orientation = "RAS" (or what is right) in its model.toml',
            )


def _routes(config: Config, models: Mapping[str, Model]) -> Iterator[Finding]:
    if not config.routes:
        yield Finding("FAULT", "routes", "there are none: every Series would stay unrouted")
    for section in config.routes:
        subject = f'route "{section.name}"'
        if section.model not in models:
            yield Finding("FAULT", subject, f"its model {section.model} cannot be used, see above")
            continue
        try:
            (route,) = with_models([route_of(section)], models)
        except ConfigError as error:
            yield Finding("FAULT", "routes", str(error))
            continue
        takes = f"{' + '.join(route.channels)} → " if route.channels else ""
        yield Finding("ok", subject, f"{takes}{route.model} → {', '.join(route.send_to)}")


def _listening(config: Config) -> Iterator[Finding]:
    dicom = config.dicom
    if dicom.port:
        yield _port(config, dicom.port, "plain")
    else:
        yield Finding("ok", "node", "there is no plain port: dicom.port = 0")
    yield from _tls(config)
    accepted = accepted_titles(config)
    if accepted is None:
        yield Finding("note", "node", "any AE Title may send: dicom.accept_from is *")
    elif not accepted:
        yield Finding("FAULT", "node", why_nobody(config))


def _port(config: Config, port: int, how: str) -> Finding:
    address = f"{config.dicom.ae_title} at {config.dicom.host}:{port} ({how})"
    if (pid := running_node(config.node.data_dir)) is not None:
        return Finding("ok", "node", f"{address} is run by process {pid}")
    if _is_taken(config.dicom.host, port):
        return Finding("FAULT", "node", f"{address}: another program listens on this port")
    return Finding("ok", "node", f"{address} is free; the node is not running")


def _tls(config: Config) -> Iterator[Finding]:
    section = config.dicom.tls
    if section.certificate is None or not section.listens:
        return
    yield _port(config, section.port, "TLS")
    try:
        server_context(section.certificate, section.key, section.clients_ca)
    except ConfigError as error:
        yield Finding("FAULT", "node", f"dicom.tls: {error}")
        return
    if section.clients_ca is None:
        sentence = "anyone who reaches the TLS port may connect: no certificate is asked for"
        yield Finding("note", "node", f"{sentence}; set dicom.tls.ca")
    else:
        sentence = f"who comes by TLS shows a certificate signed by {section.clients_ca}"
        yield Finding("ok", "node", sentence)


def _is_taken(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def faults(findings: list[Finding]) -> int:
    """How many of them must be mended."""
    return sum(finding.verdict == "FAULT" for finding in findings)
