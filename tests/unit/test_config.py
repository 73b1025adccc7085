import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from node.core import config
from node.core.config import Config
from node.core.errors import ConfigError
from node.core.sections import PeerSection, ResultsSection, RouteSection

SHIPPED = Path(__file__).parents[2] / "config" / "node.toml"
MINIMAL = """
[peers.pacs]
ae_title = "ORTHANC"
host = "127.0.0.1"
port = 4242
[models.hippocampus]
path = "models/hippocampus"
[[routes]]
name = "brain"
model = "hippocampus"
send_to = ["pacs"]
"""


_PEER = '[peers.a]\nurl = "https://h/dicom-web"\n'


def _write(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def _settings(section: type[BaseModel]) -> set[str]:
    return set(section.model_fields)


def test_the_shipped_file_lists_every_setting_of_the_code() -> None:
    text = SHIPPED.read_text(encoding="utf-8")
    tree = tomllib.loads(re.sub(r"(?m)^# ([\w.]+ = )", r"\1", text))  # optional ones are commented
    assert set(tree["peers"]["pacs"]["results"]) == _settings(ResultsSection)
    assert set(tree) == set(Config.model_fields)
    for name, field in Config.model_fields.items():
        inner: Any = field.annotation
        if name in ("peers", "models"):
            (example,) = tree[name].values()
            assert set(example) == _settings(inner.__args__[1])
        elif name == "routes":
            assert set(tree[name][0]) == _settings(RouteSection)
        else:
            assert set(tree[name]) == _settings(inner)


def test_the_shipped_file_states_the_defaults_of_the_code() -> None:
    loaded = config.load(SHIPPED)
    for name in ("database", "closing", "inference", "delivery", "retention", "web", "log"):
        assert getattr(loaded, name) == Config.model_fields[name].default
    assert loaded.dicom.model_copy(update={"accept_from": None}) == Config().dicom
    assert (
        loaded.peers["pacs"].timeout_seconds == PeerSection.model_fields["timeout_seconds"].default
    )
    assert loaded.node.min_free_mb == Config().node.min_free_mb


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    loaded = config.load(_write(tmp_path, MINIMAL))
    assert loaded.node.data_dir == tmp_path / "var"
    assert loaded.models["hippocampus"].path == tmp_path / "models" / "hippocampus"


def test_the_environment_overrides_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_PEERS__PACS__PORT", "11113")
    monkeypatch.setenv("NODE_NODE__DATA_DIR", "/srv/segnode")
    loaded = config.load(_write(tmp_path, MINIMAL))
    assert loaded.peers["pacs"].port == 11113
    assert loaded.node.data_dir == Path("/srv/segnode")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[dicom]\naetitle = "X"', '"dicom.aetitle" is not a setting; did you mean "ae_title"?'),
        ("[clossing]\nquiet_seconds = 1", '"clossing" is not a setting; did you mean "closing"?'),
        ('[peers.a]\nae_title = "A"\nhots = "h"\nport = 1', 'did you mean "host"?'),
        ("[dicom]\nport = 99999", '"dicom.port": input should be less than or equal to 65535'),
        ('[dicom]\nae_title = "SEVENTEEN LETTERS"', '"SEVENTEEN LETTERS" is no AE title'),
        ('[dicom]\naccept_from = ["pasc"]', 'dicom.accept_from: there is no "pasc"'),
        (MINIMAL.replace('["pacs"]', '["pasc"]'), 'there is no "pasc"; did you mean "pacs"?'),
        (MINIMAL.replace('model = "hippo', 'model = "hipo'), 'did you mean "hippocampus"?'),
        (MINIMAL + 'when = { Modality = "~(" }', "is not a regular expression"),
        (MINIMAL + 'modle = "x"', '"routes.0.modle" is not a setting; did you mean "model"?'),
        (
            MINIMAL + "when = { SliceThickness = { min = 3, max = 2 } }",
            '"routes.0.when.SliceThickness": the range is empty: min = 3 is more than max = 2',
        ),
        (
            MINIMAL + "channels.T1 = { SliceThickness = { mx = 2 } }",
            '"routes.0.channels.T1.SliceThickness": a condition has no "mx"; did you mean "max"?',
        ),
        (MINIMAL + "when = { Modality = true }", '"routes.0.when.Modality": a condition is'),
        (MINIMAL + 'when = { A = "b" }\nchannels.T1 = {}', 'has both "when" and "channels"'),
        (MINIMAL + 'least_verdict = "sure"', '"routes.0.least_verdict": input should be'),
        (MINIMAL.replace("port = 4242", 'port = 4242\nprofile = "ohiff"'), 'did you mean "ohif"?'),
        (
            MINIMAL + '[peers.pacs.results]\nsegmentation = "none"\nreport = true',
            '"peers.pacs": report = true needs a segmentation',
        ),
        (MINIMAL + "[peers.pacs.results]\nreprot = true", 'did you mean "report"?'),
        ("[node", "is not TOML"),
        ('[database]\nurl = "postgresql://x"', '"database.url"'),
        ('[dicom.tls]\nkey = "a.key"', '"dicom.tls": key needs its certificate beside it'),
        (
            "[dicom.tls]\nrequire_client_certificate = true",
            '"dicom.tls": require_client_certificate',
        ),
        ("[dicom]\nport = 0", '"dicom": port = 0 leaves TLS alone, which needs tls.certificate'),
        (
            '[dicom]\nport = 2762\n[dicom.tls]\ncertificate = "a.crt"',
            '"dicom": port and tls.port are both 2762',
        ),
        ('[peers.a]\nhost = "h"\nport = 1', '"peers.a": needs ae_title, host and port, or a url'),
        (_PEER + "tls = true", '"peers.a": tls, commitment and query need ae'),
        (_PEER + 'user = "u"', '"peers.a": user and password go together'),
        (_PEER + 'user = "u"\npassword = "p"\ntoken = "t"', '"peers.a": has both a user and a'),
        (_PEER.replace("//h", "//u:secret@h"), '"peers.a.url": has to begin with http:// or https'),
        (_PEER.replace("https:", "ftp:"), "without user, query or fragment"),
        (MINIMAL.replace('["pacs"]', "[]"), 'route "brain": send_to is empty; name a peer'),
        (MINIMAL.replace('["pacs"]', '"pacs"'), '"routes.0.send_to": should be a list, such as ["'),
        (_PEER + "results = true", '"peers.a.results": should be a table of settings, not True'),
        (_PEER + 'results = { compression = "rle" }', '"peers.a": RLE Lossless holds whole bytes'),
        (_PEER + '[dicom]\naccept_from = ["a"]', '"a" has no ae_title to know it by'),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name(tmp_path: Path, text: str, sentence: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(sentence)) as raised:
        config.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("tls", "listens", "asks"),
    [
        ("", False, False),
        ('ca = "ca.crt"', False, True),
        ('certificate = "a.crt"', True, False),
        ('certificate = "a.crt"\nca = "ca.crt"', True, True),
        ('certificate = "a.crt"\nca = "ca.crt"\nrequire_client_certificate = false', True, False),
        ('certificate = "a.crt"\nport = 0', False, False),
    ],
)
def test_tls_is_listened_for_with_a_certificate_and_asks_for_one_with_a_ca(
    tmp_path: Path, tls: str, listens: bool, asks: bool
) -> None:
    section = config.load(_write(tmp_path, MINIMAL + f"[dicom.tls]\n{tls}")).dicom.tls
    assert section.listens == listens
    assert (section.clients_ca is not None) == asks


def test_secrets_come_from_the_environment_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_PEERS__A__PASSWORD", "12345678")
    path = _write(tmp_path, _PEER + 'user = "u"')
    loaded = config.load(path)
    password = loaded.peers["a"].password
    assert password is not None
    assert password.get_secret_value() == "12345678"
    assert "12345678" not in repr(loaded)
    monkeypatch.setenv("NODE_PEERS__A__TOKEN", "87654321")
    with pytest.raises(ConfigError) as raised:
        config.load(path)
    assert "12345678" not in str(raised.value)
    assert "87654321" not in str(raised.value)


def test_a_secret_of_the_wrong_kind_is_refused_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'"peers\.a\.token"') as raised:
        config.load(_write(tmp_path, _PEER + "token = 1234567.5"))
    assert "1234567" not in str(raised.value)


def test_a_url_with_a_password_in_it_is_refused_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'"peers\.a\.url"') as raised:
        config.load(_write(tmp_path, _PEER.replace("//h", "//u:hidden@h")))
    assert "hidden" not in str(raised.value)


def test_paths_of_certificates_are_relative_to_the_file(tmp_path: Path) -> None:
    text = _PEER + 'tls_ca = "a.crt"\n[dicom.tls]\ncertificate = "certs/node.crt"'
    loaded = config.load(_write(tmp_path, text))
    assert loaded.peers["a"].tls_ca == tmp_path / "a.crt"
    assert loaded.dicom.tls.certificate == tmp_path / "certs" / "node.crt"
    assert loaded.dicom.tls.key is None


def test_a_misspelt_environment_variable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_DICM__PORT", "1")
    with pytest.raises(ConfigError, match=r'NODE_DICM__PORT.*did you mean "dicom"'):
        config.load(_write(tmp_path, MINIMAL))


def test_a_variable_of_another_program_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", "/etc/ssl/certs")
    assert config.load(_write(tmp_path, MINIMAL)).dicom.port == 11112


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        config.load(tmp_path / "nowhere.toml")
