"""How a Label Studio server of our own is started: apart from us, on the loopback interface, silent to the outside."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import sqlite3
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from integrations import environments
from integrations.files import cannot_write
from integrations.launching import last_line, log_of, printed, spawn, wait_until
from integrations.secrets import secret
from saa_core.errors import ServiceError, StoreError

VERSION = "1.23.2"
NAME = f"label-studio-{VERSION}"
USERNAME = "expert@localhost"
STRICT = "fflag_feat_utc_210_prediction_validation_15082025"
"""Feature flag of the server with which it refuses predictions that do not fit the project's labeling config."""

_REQUIREMENTS = Path(__file__).with_name("server-requirements.txt")
_PATIENCE = 300.0
"""Seconds that a start may take; the first one makes the database, which takes half a minute of processor time."""


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one server: its database, the images that it serves, its secrets, its log."""

    folder: Path

    @property
    def data(self) -> Path:
        """Database, uploads, and the key that signs sessions."""
        return self.folder / "data"

    @property
    def files(self) -> Path:
        """The server's LOCAL_FILES_DOCUMENT_ROOT."""
        return self.folder / "files"

    @property
    def log(self) -> Path:
        """What the server printed since its last start."""
        return log_of(self.folder)

    @property
    def token_file(self) -> Path:
        """Holds the token of `USERNAME`; deleted, the next start makes another."""
        return self.folder / "token"

    @property
    def password_file(self) -> Path:
        """Holds the password of `USERNAME`; deleted, the next start makes another."""
        return self.folder / "password"

    def token(self) -> SecretStr:
        """Of the API, 40 hexadecimal digits; made if there is none.

        Raises:
            StoreError: Others can read it, or it cannot be read or written.
        """
        return SecretStr(secret(self.token_file, lambda: secrets.token_hex(20)))

    def password(self) -> SecretStr:
        """Of the browser's login; made if there is none.

        Raises:
            StoreError: Others can read it, or it cannot be read or written.
        """
        return SecretStr(secret(self.password_file, lambda: secrets.token_urlsafe(12)))


def url_of(port: int) -> str:
    """Where a server of ours on this port answers."""
    return f"http://127.0.0.1:{port}"


def install(services: Path, progress: environments.Progress = lambda *step: None) -> Path:
    """The server's program, installed now if it is not there, about 1 GB.

    Args:
        services: Folder of all services' environments.
        progress: Hears of the packages that were fetched.

    Raises:
        StoreError: It cannot be installed.
    """
    return environments.install(NAME, _REQUIREMENTS, services, progress) / "bin" / "label-studio"


def environment(home: Home, port: int) -> dict[str, str]:
    """Every variable that the server gets.

    None of ours: it reads each of its settings under its bare name too, so that a stray HOST, DEBUG or DATABASE_NAME
    would change it. The proxy that nobody answers stops the requests to the outside that no setting stops.

    Raises:
        StoreError: A secret cannot be read or written.
    """
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home.folder / "home"),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "LABEL_STUDIO_BASE_DATA_DIR": str(home.data),
        "LABEL_STUDIO_HOST": url_of(port),
        "LABEL_STUDIO_USERNAME": USERNAME,
        "LABEL_STUDIO_PASSWORD": home.password().get_secret_value(),
        "LABEL_STUDIO_USER_TOKEN": home.token().get_secret_value(),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
        "LABEL_STUDIO_SENTRY_DSN": "",
        "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(home.files),
        "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",  # or it would ring no doorbell on the loopback interface
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1,localhost",
    }


def launch(
    program: Path, home: Home, port: int, *, inherited: Sequence[int] = (), extra: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a server that outlives this process; `wait` says when it answers.

    Args:
        program: From `install`.
        home: Its folder; what is missing in it is made. Token and password are those of the folder's files, whatever
            its database held.
        port: On 127.0.0.1.
        inherited: Open descriptors that the server keeps open.
        extra: Further variables, such as feature flags.

    Raises:
        StoreError: The folder, its database or a secret cannot be read or written.
    """
    new_password = not home.password_file.exists()
    variables = environment(home, port) | dict(extra or {})
    command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port)]
    try:
        for folder in (home.data, home.files, home.folder / "home"):
            folder.mkdir(parents=True, exist_ok=True)
        home.folder.chmod(0o700)  # its database holds the token as well, and reads like any file
        _make_known(home, new_password)
    except OSError as error:
        raise cannot_write(str(home.folder), error) from error
    return spawn(command, home.folder, variables, inherited=inherited, cwd=home.folder)


def _make_known(home: Home, new_password: bool) -> None:
    """Put our token, and a password that was made anew, into a database of an earlier start."""
    database = home.data / "label_studio.sqlite3"
    if not database.exists():
        return
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            ours = "(SELECT id FROM htx_user WHERE email = ?)"
            token = home.token().get_secret_value()
            connection.execute(f"UPDATE authtoken_token SET key = ? WHERE user_id = {ours}", (token, USERNAME))
            if new_password:
                password = _django_hash(home.password().get_secret_value())
                connection.execute(f"UPDATE htx_user SET password = ? WHERE id = {ours}", (password, USERNAME))
    except sqlite3.Error as error:
        # A start that was cut off early has left no tables; this one makes them, with our token and password.
        if "no such table" not in str(error):
            raise StoreError(str(database), f"cannot be used: {error}") from error


def _django_hash(password: str) -> str:
    """A password as Django stores it: algorithm, iterations, salt, PBKDF2 in base 64."""
    salt, iterations = secrets.token_hex(11), 1_000_000
    key = hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), iterations)
    return f"pbkdf2_sha256${iterations}${salt}${base64.b64encode(key).decode()}"


def accepts(url: str, token: SecretStr) -> bool | None:
    """Whether the server that answers there takes this token; None when none answers.

    Of our own servers each has another token: one that takes it is the one that was meant.
    """
    import httpx

    headers = {"Authorization": f"Token {token.get_secret_value()}"}
    try:
        # No proxy of the user's stands between us and the loopback interface.
        answer = httpx.get(f"{url}/api/current-user/whoami", headers=headers, timeout=10, trust_env=False)
        if answer.is_server_error:
            return None
        return answer.is_success and "email" in answer.json()
    except httpx.TransportError:
        return None
    except ValueError:
        return False


def wait(home: Home, port: int, alive: Callable[[], bool]) -> None:
    """Wait until the server answers and is proven to be the one of this folder.

    Args:
        home: The server's folder.
        port: Where it was told to answer.
        alive: Whether its process still runs.

    Raises:
        ServiceError: It ended, another program has its port, or it took too long.
    """
    url, token = url_of(port), home.token()

    def answers() -> bool:
        accepted = accepts(url, token)
        if accepted is False or (accepted is None and "is in use" in printed(home.folder)):
            raise ServiceError(
                url,
                f"what answers there refuses the token in {home.token_file}: another program has the port (--port "
                "names another), or legacy tokens were switched off under Organization > API Tokens Settings",
            )
        return bool(accepted)

    wait_until(answers, alive, home.folder, url, _PATIENCE, who="the server", complaint=partial(_complaint, home))


def _complaint(home: Home, text: str) -> str:
    """The last thing that it printed, without its secrets."""
    last = last_line(text)
    for hidden in (home.token(), home.password()):
        last = last.replace(hidden.get_secret_value(), "***")
    return last
