"""One call of the official Python SDK, its answer as JSON: `sdk.py ENDPOINT BUCKET COMMAND KEY [FILE]`.

The SDK keeps COS's own host names and takes the emulator for its HTTP proxy, so it runs as it does against COS.
"""

import hashlib
import json
import sys

import crcmod
from qcloud_cos import CosConfig, CosS3Client

ENDPOINT, BUCKET, COMMAND, KEY = sys.argv[1:5]
client = CosS3Client(
    CosConfig(Region="ap-guangzhou", SecretId="AKIDEXAMPLE", SecretKey="exampleSecretKey", Scheme="http", Proxies={"http": ENDPOINT}), retry=0
)


def get():
    answer = client.get_object(BUCKET, KEY)
    body = answer["Body"].get_raw_stream().read()
    crc = crcmod.mkCrcFun(0x142F0E1EBA9EA3693, initCrc=0, xorOut=0xFFFFFFFFFFFFFFFF, rev=True)(body)
    headers = {name.lower(): value for name, value in answer.items() if name != "Body"}
    return {**headers, "size": len(body), "sha256": hashlib.sha256(body).hexdigest(), "crc64_of_body": str(crc)}


def upload():
    client.upload_file(BUCKET, KEY, sys.argv[5], PartSize=1, MAXThread=2)
    return {}


def set_acl_and_tags():
    client.put_object_acl(BUCKET, KEY, ACL="public-read")
    tags = {"TagSet": {"Tag": [{"Key": "project", "Value": "a b"}, {"Key": "stage", "Value": "test"}]}}
    client.put_object_tagging(BUCKET, KEY, tags)
    return {}


def acl():
    return client.get_object_acl(BUCKET, KEY)


def tags():
    return client.get_object_tagging(BUCKET, KEY)


print(json.dumps({"get": get, "upload": upload, "set-acl-and-tags": set_acl_and_tags, "acl": acl, "tags": tags}[COMMAND]()))
