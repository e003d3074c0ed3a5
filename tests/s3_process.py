"""A real process that speaks S3, for tests: on a loopback port, with nothing in it but one bucket."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlencode

ROOT = Path(__file__).parents[1]
BUCKET = "models"


class S3Process:
    """One server, which can be killed and started again; it comes back empty."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the server and waits until it has its bucket."""
        assert self._process is None, "it is running already"
        self._process = subprocess.Popen([sys.executable, "-m", "tests.s3_server", str(self.port)], cwd=ROOT)
        over = time.monotonic() + 30
        while not self._has_bucket():
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < over, "the server did not start"
            time.sleep(0.02)

    def add_bucket(self, bucket: str) -> None:
        self._send(f"/{bucket}", method="PUT")

    def environment(self, folder: str) -> dict[str, str]:
        """Settings of a process that keeps its blobs in a folder of the bucket."""
        return {
            "DISCO_BLOB_URL": f"s3://{BUCKET}/{folder}",
            "DISCO_S3_ENDPOINT": self.endpoint,
            "DISCO_S3_ACCESS_KEY_ID": "key",
            "DISCO_S3_SECRET_ACCESS_KEY": "secret",
        }

    def require_keys(self) -> tuple[str, str]:
        """From now on every signature is checked; an access key that may do everything, and its secret."""
        self._identity(Action="CreateUser", UserName="disco")
        policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}'
        self._identity(Action="PutUserPolicy", UserName="disco", PolicyName="all", PolicyDocument=policy)
        answer = self._identity(Action="CreateAccessKey", UserName="disco")
        self._send("/moto-api/reset-auth", method="POST", body=b"0", Content_Type="text/plain")
        found = [re.search(f"<{word}>(.*)</{word}>", answer) for word in ("AccessKeyId", "SecretAccessKey")]
        key, secret = (match[1] for match in found if match is not None)
        return key, secret

    def kill(self) -> None:
        """Ends the server with SIGKILL."""
        assert self._process is not None, "it is not running"
        self._process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.kill()

    def _has_bucket(self) -> bool:
        try:
            self.add_bucket(BUCKET)
        except OSError:  # not listening yet
            return False
        return True

    def _identity(self, **parameters: str) -> str:
        scope = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/iam/aws4_request"
        return self._send("/", method="POST", body=urlencode(parameters).encode(), Authorization=scope)

    def _send(self, path: str, *, method: str, body: bytes | None = None, **headers: str) -> str:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(f"{self.endpoint}{path}", data=body, method=method, headers=fields)
        with urllib.request.urlopen(request, timeout=5) as answer:
            text: str = answer.read().decode()
            return text
