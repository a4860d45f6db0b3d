"""A `cos-emulator` in a process of its own, and the few requests a benchmark asks of it."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import subprocess
import urllib.parse
import xml.etree.ElementTree as xml
from xml.sax.saxutils import escape

import host

BUCKET = "bench-1250000000"


class Emulator:
    """ETags are CRC-64 for everybody: MD5 would measure the emulator."""

    def __init__(self, binaries, *flags):
        command = [f"{binaries}/cos-emulator", "--bucket", BUCKET, "--etag", "crc64", "--admin", "--anonymous", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.endpoint = self.process.stdout.readline().strip()
        self.address = self.endpoint.removeprefix("http://")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        host.stop(self.process)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
            return answer.headers, text

    def put(self, key, path):
        connection = http.client.HTTPConnection(self.address, timeout=600, blocksize=1 << 20)
        with contextlib.closing(connection), open(path, "rb") as file:
            connection.request("PUT", f"/{BUCKET}/{key}", body=file, headers={"Content-Length": str(os.path.getsize(path))})
            answer = connection.getresponse()
            if answer.status != 200:
                raise RuntimeError(f"PUT {key}: {answer.status} {answer.read()[:200]!r}")

    def repeat(self, key, source, times):
        """An object that is another so many times in a row, without sending it."""
        _, answer = self.request("POST", f"/{BUCKET}/{key}?uploads")
        upload, parts = xml.fromstring(answer).findtext("UploadId"), []
        for number in range(1, times + 1):
            copy = {f"x-{kind}-copy-source": f"/{BUCKET}/{source}" for kind in ("cos", "amz")}
            _, answer = self.request("PUT", f"/{BUCKET}/{key}?partNumber={number}&uploadId={upload}", b"", copy)
            parts.append(f"<Part><PartNumber>{number}</PartNumber><ETag>{xml.fromstring(answer).findtext('ETag')}</ETag></Part>")
        body = f"<CompleteMultipartUpload>{''.join(parts)}</CompleteMultipartUpload>"
        self.request("POST", f"/{BUCKET}/{key}?uploadId={upload}", body)

    def latency(self, milliseconds):
        self.request("PUT", "/_emulator/link", json.dumps({"latency": milliseconds}))

    def forget(self):
        self.request("DELETE", "/_emulator/counters")

    def counters(self):
        return json.loads(self.request("GET", "/_emulator/counters")[1])

    def parts_at_once(self):
        """How many parts were on the wire at once, at most."""
        seconds = lambda time: time["secs"] + time["nanos"] / 1e9
        edges = []
        for entry in json.loads(self.request("GET", "/_emulator/log")[1]):
            if entry["op"] in ("UploadPart", "PutObject"):
                begun = seconds(entry["at"])
                edges += [(begun, 1), (begun + seconds(entry["elapsed"]), -1)]
        most = now = 0
        for _, step in sorted(edges):
            now += step
            most = max(most, now)
        return most

    def objects(self):
        """Size and ETag of every object."""
        found, marker = {}, ""
        while marker is not None:
            tree = self._list("marker", marker)
            for entry in tree.findall("Contents"):
                found[urllib.parse.unquote(entry.findtext("Key"))] = (int(entry.findtext("Size")), entry.findtext("ETag"))
            marker = tree.findtext("NextMarker") if tree.findtext("IsTruncated") == "true" else None
            if marker is not None:
                marker = urllib.parse.unquote(marker)
        return found

    def _list(self, name, value, query=""):
        return xml.fromstring(self.request("GET", f"/{BUCKET}/?{query}encoding-type=url&{name}={urllib.parse.quote(value, safe='')}")[1])

    def checksum(self, key):
        headers, _ = self.request("HEAD", f"/{BUCKET}/{key}")
        return headers.get("x-cos-hash-crc64ecma") or headers.get("x-amz-hash-crc64ecma")

    def empty(self):
        """Takes away every object and unfinished upload, without latency."""
        self.latency(0)
        keys = list(self.objects())
        for first in range(0, len(keys), 1000):
            entries = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in keys[first:first + 1000])
            body = f"<Delete><Quiet>true</Quiet>{entries}</Delete>".encode()
            self.request("POST", f"/{BUCKET}/?delete", body, {"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()})
        uploads = self._list("key-marker", "", "uploads&")
        for upload in uploads.findall("Upload"):
            key = upload.findtext("Key")
            self.request("DELETE", f"/{BUCKET}/{key}?uploadId={upload.findtext('UploadId')}")
