"""FiftyOne, imported only after its environment is set: another database or its telemetry would be used otherwise."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from integrations.urls import masked_url
from saa_core.errors import ServiceError

_OPTIONS = {"journal": "true", "serverSelectionTimeoutMS": "5000"}
"""Without the journal, a mongod that is killed loses what it acknowledged in the last tenth of a second."""


def durable(uri: str) -> str:
    """A mongod's address, with its writes journalled and a wait of seconds, not minutes, when it is down."""
    parts = urlsplit(uri)
    query = urlencode(_OPTIONS | dict(parse_qsl(parts.query)))
    return urlunsplit(parts._replace(path=parts.path or "/", query=query))


def variables(uri: str, database: str, folder: Path) -> dict[str, str]:
    """The environment of a process that uses FiftyOne: this database, nothing sent outside, nobody else's settings.

    Args:
        uri: Of a mongod, ``mongodb://host:port/``.
        database: Name of the database there.
        folder: For what FiftyOne writes of its own.
    """
    return {
        "FIFTYONE_DATABASE_URI": durable(uri),
        "FIFTYONE_DATABASE_NAME": database,
        "FIFTYONE_DATABASE_VALIDATION": "false",  # or it prints of mongod's version at every connection
        "FIFTYONE_DO_NOT_TRACK": "1",
        "FIFTYONE_CONFIG_PATH": str(folder / "config.json"),
        "FIFTYONE_APP_CONFIG_PATH": str(folder / "app_config.json"),
        "FIFTYONE_ANNOTATION_CONFIG_PATH": str(folder / "annotation_config.json"),
        "FIFTYONE_EVALUATION_CONFIG_PATH": str(folder / "evaluation_config.json"),
        "FIFTYONE_BRAIN_CONFIG_PATH": str(folder / "brain_config.json"),
        "FIFTYONE_DEFAULT_DATASET_DIR": str(folder / "data"),
        "FIFTYONE_DATASET_ZOO_DIR": str(folder / "zoo"),
        "FIFTYONE_MODEL_ZOO_DIR": str(folder / "zoo"),
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "FIFTYONE_LOGGING_LEVEL": "ERROR",
    }


def check_answers(uri: str) -> None:
    """Without the seconds that FiftyOne takes to be imported.

    Args:
        uri: As for `variables`.

    Raises:
        ServiceError: No mongod answers there, or it does not let us in.
    """
    from pymongo import MongoClient
    from pymongo.errors import ConnectionFailure, PyMongoError

    try:
        with MongoClient[dict[str, object]](durable(uri)) as client:
            client.admin.command("ping")
    except ConnectionFailure as error:
        raise _unanswered(uri) from error
    except PyMongoError as error:
        # Its whole answer follows, which says the same again.
        reason = str(error).partition(", full error")[0]
        raise ServiceError(masked_url(uri), f"this mongod cannot be used: {reason}") from error


def connect(uri: str, database: str, folder: Path) -> Any:
    """The package `fiftyone`, connected to this database; a process may change from one to another.

    Args:
        uri: As for `variables`.
        database: As for `variables`.
        folder: As for `variables`; of the first call in a process.

    Raises:
        ServiceError: No mongod answers there, or it is none that FiftyOne can use.
    """
    os.environ.update(variables(uri, database, folder))
    os.environ.pop("FIFTYONE_PRIVATE_DATABASE_PORT", None)  # of another FiftyOne that this process was started by
    first = "fiftyone" not in sys.modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies' deprecations are not our users' business
        import fiftyone
        from fiftyone.core.odm import database as connection

        if not first and (fiftyone.config.database_uri, fiftyone.config.database_name) != (durable(uri), database):
            connection._disconnect()
            fiftyone.config.database_uri, fiftyone.config.database_name = durable(uri), database
        try:
            fiftyone.list_datasets()
        except Exception as error:  # pymongo's and FiftyOne's own, which share no class
            check_answers(uri)
            raise ServiceError(masked_url(uri), f"FiftyOne cannot use this mongod: {error}") from error
    return fiftyone


def _unanswered(uri: str) -> ServiceError:
    advice = "`saa services up fiftyone` starts the workspace's own, SAA_FIFTYONE_URI names another"
    return ServiceError(masked_url(uri), f"no mongod answers there; {advice}")
