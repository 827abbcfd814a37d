"""Log lines as JSON, one object a line, on stderr: for people with a filter, and for the supervisor's files.

Owns the shape of a line: time, level, logger, message, and the traceback where there is one. Never used for readings.
"""

from __future__ import annotations

import json
import logging

from citysense.clock import rfc3339


class JsonLines(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; line breaks inside a message are escaped, so that no device can forge a second one."""
        line: dict[str, str] = {
            "time": rfc3339(int(record.created * 1000)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


OURS = ("citysense", "citysense_gateway", "citysense_platform", "citysense_profiles", "citysense_sim")


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send our log records from `level` on, and libraries' from WARNING on, to stderr. Called once, by `main`."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for package in OURS:
        logging.getLogger(package).setLevel(level)
