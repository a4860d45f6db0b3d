"""The official Python SDK against the emulator: `python_sdk.py CASE ENDPOINT DIR`.

The SDK keeps COS's own host names and takes the emulator for its HTTP proxy, so it runs as it does against COS. A case that fails raises.
"""

import os
import sys
import time

import requests
from qcloud_cos import CosConfig, CosS3Client
from qcloud_cos.cos_exception import CosServiceError

CASE, ENDPOINT, DIR = sys.argv[1:4]
BUCKET = "example-1250000000"
REGION = "ap-guangzhou"
MIB = 1 << 20


def client(**options):
    settings = dict(Region=REGION, SecretId="AKIDEXAMPLE", SecretKey="exampleSecretKey", Scheme="http", Proxies={"http": ENDPOINT})
    settings.update(options)
    return CosS3Client(CosConfig(**settings), retry=0)


def refused(status, code, call, message=""):
    """The call must be refused with exactly this."""
    try:
        call()
    except CosServiceError as error:
        assert (error.get_status_code(), error.get_error_code()) == (status, code), error
        assert message in error.get_error_msg(), error
        assert error.get_request_id()
    else:
        raise AssertionError(f"not refused with {status} {code}")


def read(answer):
    return answer["Body"].get_raw_stream().read()


def random_file(name, size):
    path = os.path.join(DIR, name)
    data = os.urandom(size)
    with open(path, "wb") as file:
        file.write(data)
    return path, data


def upload_file():
    path, data = random_file("big", 5 * MIB + 12345)
    done = client().upload_file(BUCKET, "dir/big 文件.bin", path, PartSize=1, MAXThread=3, EnableMD5=True, Metadata={"x-cos-meta-color": "blue"})
    assert done["ETag"].strip('"').endswith("-6"), done
    head = client().head_object(BUCKET, "dir/big 文件.bin")
    assert int(head["Content-Length"]) == len(data)
    assert head["x-cos-meta-color"] == "blue"
    assert head["x-cos-hash-crc64ecma"] == done["x-cos-hash-crc64ecma"]
    assert read(client().get_object(BUCKET, "dir/big 文件.bin")) == data
    target = os.path.join(DIR, "back")
    client().download_file(BUCKET, "dir/big 文件.bin", target, PartSize=1, EnableCRC=True)
    assert open(target, "rb").read() == data


def list_objects():
    c = client()
    names = sorted([f"dir/{n:03}" for n in range(25)] + [f"dir/sub {n}/x" for n in range(5)] + ["dir/", "dir/a+b&c<d>", "other"])
    for name in names:
        c.put_object(BUCKET, b"x", name)
    found, marker, pages = [], "", 0
    while True:
        page = c.list_objects(BUCKET, Prefix="dir/", Marker=marker, MaxKeys=7, EncodingType="url")
        found += [requests.utils.unquote(entry["Key"]) for entry in page["Contents"]]
        pages += 1
        if page["IsTruncated"] == "false":
            break
        marker = requests.utils.unquote(page["NextMarker"])
    assert found == [name for name in names if name.startswith("dir/")], found
    assert pages == 5, pages
    found, common, marker = [], [], ""
    while True:
        page = c.list_objects(BUCKET, Prefix="dir/", Delimiter="/", Marker=marker, MaxKeys=4)
        found += [entry["Key"] for entry in page.get("Contents", [])]
        common += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        if page["IsTruncated"] == "false":
            break
        marker = page["NextMarker"]
    assert common == [f"dir/sub {n}/" for n in range(5)], common
    assert found == [name for name in names if name.startswith("dir/") and "/x" not in name], found
    assert c.list_objects(BUCKET, Prefix="nothing").get("Contents") is None


def copy():
    c = client()
    c.put_object(BUCKET, b"source", "from/a b+c", ContentType="text/plain", Metadata={"x-cos-meta-k": "v"}, StorageClass="STANDARD_IA")
    source = {"Bucket": BUCKET, "Key": "from/a b+c", "Region": REGION}
    done = c.copy_object(BUCKET, "to/kept", source)
    assert done["ETag"].strip('"') == c.head_object(BUCKET, "from/a b+c")["ETag"].strip('"')
    kept = c.head_object(BUCKET, "to/kept")
    assert (kept["Content-Type"], kept["x-cos-meta-k"]) == ("text/plain", "v"), kept
    assert "x-cos-storage-class" not in kept, "a copy does not inherit the class"
    c.copy_object(BUCKET, "to/new", source, CopyStatus="Replaced", ContentType="text/html", StorageClass="STANDARD_IA")
    new = c.head_object(BUCKET, "to/new")
    assert (new["Content-Type"], new["x-cos-storage-class"]) == ("text/html", "STANDARD_IA"), new
    assert "x-cos-meta-k" not in new
    refused(400, "InvalidRequest", lambda: c.copy_object(BUCKET, "from/a b+c", source))
    refused(412, "PreconditionFailed", lambda: c.copy_object(BUCKET, "to/x", source, CopySourceIfMatch='"bad"'))
    refused(404, "NoSuchKey", lambda: c.copy_object(BUCKET, "to/x", dict(source, Key="missing")))
    path, data = random_file("big", 4 * MIB + 1)
    c.upload_file(BUCKET, "from/big", path, PartSize=1)
    # In one region the SDK copies by parts only where the class changes.
    c._conf.set_copy_part_threshold_size(MIB)
    done = c.copy(BUCKET, "to/big", dict(source, Key="from/big"), PartSize=2, StorageClass="STANDARD_IA")
    assert done["ETag"].strip('"').endswith("-3"), done
    assert read(c.get_object(BUCKET, "to/big")) == data
    assert c.head_object(BUCKET, "to/big")["x-cos-hash-crc64ecma"] == c.head_object(BUCKET, "from/big")["x-cos-hash-crc64ecma"]


def delete_objects():
    c = client()
    for n in range(10):
        c.put_object(BUCKET, b"x", f"d/{n} <&>")
    wanted = [{"Key": f"d/{n} <&>"} for n in range(9)] + [{"Key": "d/missing"}]
    done = c.delete_objects(BUCKET, {"Object": wanted, "Quiet": "false"})
    assert [entry["Key"] for entry in done["Deleted"]] == [entry["Key"] for entry in wanted], done
    assert [entry["Key"] for entry in c.list_objects(BUCKET)["Contents"]] == ["d/9 <&>"]
    assert "Deleted" not in (c.delete_objects(BUCKET, {"Object": [{"Key": "d/9 <&>"}], "Quiet": "true"}) or {})
    c.delete_object(BUCKET, "d/missing")


def get_object():
    c = client()
    body = bytes(range(256)) * 40
    put = c.put_object(BUCKET, body, "a/./b", ContentType="text/x", CacheControl="no-cache", ContentDisposition="inline", Expires="0")
    whole = c.get_object(BUCKET, "a/./b")
    assert (whole["Content-Type"], whole["Cache-Control"], whole["Content-Disposition"]) == ("text/x", "no-cache", "inline"), whole
    assert whole["x-cos-hash-crc64ecma"] == put["x-cos-hash-crc64ecma"]
    assert read(whole) == body
    for text, piece, span in [("bytes=0-9", body[:10], "0-9"), ("bytes=10-", body[10:], "10-10239"), ("bytes=-5", body[-5:], "10235-10239"),
                              ("bytes=10000-99999", body[10000:], "10000-10239")]:
        part = c.get_object(BUCKET, "a/./b", Range=text)
        assert part["Content-Range"] == f"bytes {span}/10240", part
        assert part["ETag"] == put["ETag"] and part["x-cos-hash-crc64ecma"] == put["x-cos-hash-crc64ecma"]
        assert read(part) == piece
    refused(416, "InvalidRange", lambda: c.get_object(BUCKET, "a/./b", Range="bytes=10240-"))
    assert read(c.get_object(BUCKET, "a/./b", IfMatch=put["ETag"])) == body
    refused(412, "PreconditionFailed", lambda: c.get_object(BUCKET, "a/./b", IfMatch='"other"'))
    assert read(c.get_object(BUCKET, "a/./b", IfNoneMatch='"other"')) == body
    fresh = requests.get(c.get_presigned_download_url(BUCKET, "a/./b"), headers={"If-None-Match": put["ETag"]}, proxies={"http": ENDPOINT})
    assert fresh.status_code == 304 and fresh.content == b"", fresh
    refused(412, "PreconditionFailed", lambda: c.get_object(BUCKET, "a/./b", IfUnmodifiedSince="Thu, 01 Jan 2015 00:00:00 GMT"))
    assert c.get_object(BUCKET, "a/./b", ResponseContentType="image/png")["Content-Type"] == "image/png"
    refused(404, "NoSuchKey", lambda: c.get_object(BUCKET, "a/b"))
    refused(404, "NoSuchBucket", lambda: c.get_object("missing-1250000000", "a"))


def append_object():
    c = client()
    first = c.append_object(BUCKET, "log", 0, b"hello ", ContentType="text/plain")
    assert first["x-cos-next-append-position"] == "6", first
    second = c.append_object(BUCKET, "log", 6, b"world")
    assert second["x-cos-next-append-position"] == "11", second
    answer = c.get_object(BUCKET, "log")
    assert answer["x-cos-hash-crc64ecma"] == "5981764153023615706"
    assert answer["Content-Type"] == "text/plain"
    assert read(answer) == b"hello world"
    assert c.head_object(BUCKET, "log")["x-cos-object-type"] == "appendable"
    refused(409, "AppendPositionErr", lambda: c.append_object(BUCKET, "log", 6, b"again"))
    c.put_object(BUCKET, b"x", "plain")
    refused(409, "ObjectNotAppendable", lambda: c.append_object(BUCKET, "plain", 1, b"y"))


def buckets():
    c = client()
    for n in range(3):
        c.create_bucket(f"more{n}-1250000000")
    c.put_bucket_tagging("more1-1250000000", {"TagSet": {"Tag": [{"Key": "team", "Value": "a b"}]}})
    listed = c.list_buckets()
    assert [b["Name"] for b in listed["Buckets"]["Bucket"]] == [BUCKET] + [f"more{n}-1250000000" for n in range(3)], listed
    assert {b["Location"] for b in listed["Buckets"]["Bucket"]} == {REGION}
    page = c.list_buckets(MaxKeys=2)
    assert page["IsTruncated"] == "true" and page["NextMarker"] == "more0-1250000000", page
    rest = c.list_buckets(Marker=page["NextMarker"])
    assert [b["Name"] for b in rest["Buckets"]["Bucket"]] == ["more1-1250000000", "more2-1250000000"], rest
    tagged = c.list_buckets(TagKey="team", TagValue="a b")
    assert [b["Name"] for b in tagged["Buckets"]["Bucket"]] == ["more1-1250000000"], tagged
    assert not (c.list_buckets(Region="ap-beijing")["Buckets"] or {}).get("Bucket")
    assert c.bucket_exists(BUCKET) and not c.bucket_exists("missing-1250000000")
    assert c.get_bucket_location(BUCKET)["LocationConstraint"].endswith(REGION)
    assert "Status" not in (c.get_bucket_versioning(BUCKET) or {})
    assert c.get_bucket_tagging("more1-1250000000")["TagSet"]["Tag"][0]["Value"] == "a b"
    refused(404, "NoSuchTagSet", lambda: c.get_bucket_tagging(BUCKET))
    refused(409, "BucketAlreadyOwnedByYou", lambda: c.create_bucket(BUCKET))
    c.put_object("more2-1250000000", b"x", "k")
    refused(409, "BucketNotEmpty", lambda: c.delete_bucket("more2-1250000000"))
    c.delete_object("more2-1250000000", "k")
    c.delete_bucket("more2-1250000000")
    assert not c.bucket_exists("more2-1250000000")


def presigned():
    c = client()
    proxies = {"http": ENDPOINT}
    url = c.get_presigned_url(BUCKET, "报告 a.txt", "PUT")
    assert requests.put(url, data=b"presigned", proxies=proxies).status_code == 200
    url = c.get_presigned_url(BUCKET, "报告 a.txt", "GET", Params={"response-content-type": "text/x"})
    answer = requests.get(url, proxies=proxies)
    assert (answer.content, answer.headers["Content-Type"]) == (b"presigned", "text/x"), answer
    wrong = requests.get(url.replace("text%2Fx", "text%2Fy"), proxies=proxies)
    assert wrong.status_code == 403 and "SignatureDoesNotMatch" in wrong.text, wrong.text
    assert requests.delete(url, proxies=proxies).status_code == 403, "signed for GET"
    url = c.get_presigned_url(BUCKET, "报告 a.txt", "GET", Expired=-1)
    late = requests.get(url, proxies=proxies)
    assert late.status_code == 403 and "Request has expired" in late.text, late.text
    plain = requests.get(url.split("?")[0], proxies=proxies)
    assert plain.status_code == 403 and "AccessDenied" in plain.text, "nobody reads a private bucket"


def tagging_and_acl():
    c = client()
    c.put_object(BUCKET, b"x", "k")
    c.put_object_tagging(BUCKET, "k", {"TagSet": {"Tag": [{"Key": "a", "Value": "1 &"}, {"Key": "b", "Value": ""}]}})
    tags = c.get_object_tagging(BUCKET, "k")["TagSet"]["Tag"]
    assert [(tag["Key"], tag["Value"] or "") for tag in tags] == [("a", "1 &"), ("b", "")], tags
    c.delete_object_tagging(BUCKET, "k")
    assert not (c.get_object_tagging(BUCKET, "k").get("TagSet") or {}).get("Tag")
    too_many = {"TagSet": {"Tag": [{"Key": str(n), "Value": "x"} for n in range(11)]}}
    refused(400, "InvalidTag", lambda: c.put_object_tagging(BUCKET, "k", too_many))
    url, proxies = c.get_object_url(BUCKET, "k"), {"http": ENDPOINT}
    assert requests.get(url, proxies=proxies).status_code == 403
    c.put_object_acl(BUCKET, "k", ACL="public-read")
    assert requests.get(url, proxies=proxies).content == b"x"
    grants = c.get_object_acl(BUCKET, "k")["AccessControlList"]["Grant"]
    assert sorted(grant["Permission"] for grant in grants) == ["FULL_CONTROL", "READ"], grants
    c.put_object_acl(BUCKET, "k", AccessControlPolicy={
        "Owner": {"ID": "qcs::cam::uin/100000000001:uin/100000000001"},
        "AccessControlList": {"Grant": [{"Grantee": {"Type": "CanonicalUser", "ID": "qcs::cam::uin/100000000001:uin/100000000011"}, "Permission": "READ"}]},
    })
    grants = c.get_object_acl(BUCKET, "k")["AccessControlList"]["Grant"]
    assert "qcs::cam::uin/100000000001:uin/100000000011" in [grant["Grantee"]["ID"] for grant in grants], grants
    assert requests.get(url, proxies=proxies).status_code == 403
    c.put_bucket_acl(BUCKET, ACL="public-read")
    c.put_object(BUCKET, b"y", "inherits")
    assert requests.get(c.get_object_url(BUCKET, "inherits"), proxies=proxies).content == b"y"
    assert requests.put(url, data=b"z", proxies=proxies).status_code == 403


def hosts():
    """Host with a port, which the SDK leaves out of what it signs; address and port with a Host header of its own."""
    for c in [client(Endpoint="cos.local:9000"), client(Endpoint="cos.local", Proxies=None, IP=ENDPOINT.split("/")[2].split(":")[0], Port=ENDPOINT.split(":")[2])]:
        c.put_object(BUCKET, b"x", "k y")
        assert read(c.get_object(BUCKET, "k y")) == b"x"
        assert c.list_objects(BUCKET, Prefix="k ")["Contents"][0]["Key"] == "k y"


def wrong_keys():
    refused(403, "SignatureDoesNotMatch", lambda: client(SecretKey="other").put_object(BUCKET, b"x", "k"))
    refused(403, "InvalidAccessKeyId", lambda: client(SecretId="AKIDOTHER").list_objects(BUCKET))
    refused(403, "InvalidAccessKeyId", lambda: client(SecretId="AKIDOTHER").list_buckets())
    refused(403, "AccessDenied", lambda: client(Token="unexpected").list_objects(BUCKET))
    refused(403, "AccessDenied", lambda: client(SecretId=None, SecretKey=None, Anonymous=True).list_objects(BUCKET))


def wrong_clocks():
    real = time.time
    for offset, code, message in [(-86400, "AccessDenied", "Request has expired"), (86400, "RequestTimeTooSkewed", ""), (1100, "RequestTimeTooSkewed", "")]:
        time.time = lambda: real() + offset
        refused(403, code, lambda: client().put_object(BUCKET, b"x", "k"), message)
    for offset in (800, -800):
        time.time = lambda: real() + offset
        client().put_object(BUCKET, b"x", "k")


def expired_tokens():
    good = dict(SecretId="AKIDTEMPORARY", SecretKey="temporarySecretKey")
    old = dict(SecretId="AKIDOLD", SecretKey="oldSecretKey")
    client(**good, Token="token/with+chars==").put_object(BUCKET, b"x", "k")
    refused(400, "ExpiredToken", lambda: client(**old, Token="old-token").put_object(BUCKET, b"x", "k"))
    refused(403, "AccessDenied", lambda: client(**good, Token="other").put_object(BUCKET, b"x", "k"))
    refused(403, "AccessDenied", lambda: client(**good).put_object(BUCKET, b"x", "k"))
    url = client(**good, Token="token/with+chars==").get_presigned_url(BUCKET, "k", "GET", Params={"x-cos-security-token": "token/with+chars=="})
    assert requests.get(url, proxies={"http": ENDPOINT}).content == b"x"


def retries():
    """The SDK repeats what a 503 refused and what a reset ended."""
    c = CosS3Client(CosConfig(Region=REGION, SecretId="AKIDEXAMPLE", SecretKey="exampleSecretKey", Scheme="http", Proxies={"http": ENDPOINT}), retry=2)
    c.put_object(BUCKET, b"x" * 100000, "k")
    assert read(c.get_object(BUCKET, "k")) == b"x" * 100000


def versions():
    c = client()
    assert (c.get_bucket_versioning(BUCKET) or {}).get("Status") is None
    c.put_object(BUCKET, b"before", "k 文")
    c.put_bucket_versioning(BUCKET, "Enabled")
    assert c.get_bucket_versioning(BUCKET)["Status"] == "Enabled"
    ids = [c.put_object(BUCKET, body, "k 文")["x-cos-version-id"] for body in (b"one", b"two")]
    gone = c.delete_object(BUCKET, "k 文")
    assert gone["x-cos-delete-marker"] == "true"
    refused(404, "NoSuchKey", lambda: c.get_object(BUCKET, "k 文"))
    refused(405, "MethodNotAllowed", lambda: c.get_object(BUCKET, "k 文", VersionId=gone["x-cos-version-id"]))
    refused(404, "NoSuchVersion", lambda: c.get_object(BUCKET, "k 文", VersionId="MTg0NDUxNTc1NjIzMTQ1MDAwODg"))
    assert "k 文" not in [entry["Key"] for entry in c.list_objects(BUCKET).get("Contents", [])]
    for version, body in [("null", b"before"), (ids[0], b"one"), (ids[1], b"two")]:
        got = c.get_object(BUCKET, "k 文", VersionId=version)
        assert (read(got), got["x-cos-version-id"]) == (body, version), got
        assert c.head_object(BUCKET, "k 文", VersionId=version)["Content-Length"] == str(len(body))
    # Every page of one entry, newest first.
    found, key, version = [], "", ""
    while True:
        page = c.list_objects_versions(BUCKET, KeyMarker=key, VersionIdMarker=version, MaxKeys=1)
        found += [("version", entry["VersionId"], entry["IsLatest"]) for entry in page.get("Version", [])]
        found += [("marker", entry["VersionId"], entry["IsLatest"]) for entry in page.get("DeleteMarker", [])]
        if page["IsTruncated"] == "false":
            break
        key, version = page["NextKeyMarker"], page["NextVersionIdMarker"] or ""
        assert key == "k 文"
    wanted = [("marker", gone["x-cos-version-id"], "true"), ("version", ids[1], "false"), ("version", ids[0], "false"), ("version", "null", "false")]
    assert found == wanted, found
    c.put_object(BUCKET, b"x", "dir/a")
    page = c.list_objects_versions(BUCKET, Delimiter="/", Prefix="d")
    assert [entry["Prefix"] for entry in page["CommonPrefixes"]] == ["dir/"] and "Version" not in page, page
    source = {"Bucket": BUCKET, "Key": "k 文", "Region": REGION, "VersionId": ids[0]}
    c.copy_object(BUCKET, "copied", source)
    assert read(c.get_object(BUCKET, "copied")) == b"one"
    c.put_object_tagging(BUCKET, "k 文", {"TagSet": {"Tag": [{"Key": "a", "Value": "1"}]}}, VersionId=ids[0])
    assert c.get_object_tagging(BUCKET, "k 文", VersionId=ids[0])["TagSet"]["Tag"][0]["Value"] == "1"
    c.delete_object(BUCKET, "k 文", VersionId=gone["x-cos-version-id"])
    assert read(c.get_object(BUCKET, "k 文")) == b"two", "without its marker it is back"
    c.put_bucket_versioning(BUCKET, "Suspended")
    for body in (b"first", b"second"):
        assert c.put_object(BUCKET, body, "k 文")["x-cos-version-id"] == "null"
    mine = [entry["VersionId"] for entry in c.list_objects_versions(BUCKET, Prefix="k")["Version"]]
    assert mine == ["null", ids[1], ids[0]], mine
    refused(409, "BucketNotEmpty", lambda: c.delete_bucket(BUCKET))
    while True:
        page = c.list_objects_versions(BUCKET)
        entries = page.get("Version", []) + page.get("DeleteMarker", [])
        if not entries:
            break
        wanted = [{"Key": entry["Key"], "VersionId": entry["VersionId"]} for entry in entries]
        done = c.delete_objects(BUCKET, {"Object": wanted, "Quiet": "false"})
        assert [(entry["Key"], entry["VersionId"]) for entry in done["Deleted"]] == [(entry["Key"], entry["VersionId"]) for entry in wanted], done
    c.delete_bucket(BUCKET)


def restore():
    c = client()
    c.put_object(BUCKET, b"archived", "k", StorageClass="ARCHIVE")
    c.put_object(BUCKET, b"deep", "deep", StorageClass="DEEP_ARCHIVE")
    head = c.head_object(BUCKET, "k")
    assert head["x-cos-storage-class"] == "ARCHIVE" and "x-cos-restore" not in head, head
    refused(403, "InvalidObjectState", lambda: c.get_object(BUCKET, "k"))
    refused(403, "InvalidObjectState", lambda: c.copy_object(BUCKET, "copy", {"Bucket": BUCKET, "Key": "k", "Region": REGION}))
    request = {"Days": 1, "CASJobParameters": {"Tier": "Expedited"}}
    c.restore_object(BUCKET, "k", request)
    assert c.head_object(BUCKET, "k")["x-cos-restore"] == 'ongoing-request="true"'
    refused(409, "RestoreAlreadyInProgress", lambda: c.restore_object(BUCKET, "k", request))
    refused(400, "InvalidArgument", lambda: c.restore_object(BUCKET, "deep", request))
    begun = time.time()
    while "false" not in c.head_object(BUCKET, "k")["x-cos-restore"]:
        assert time.time() - begun < 20
        time.sleep(0.05)
    assert "expiry-date=" in c.head_object(BUCKET, "k")["x-cos-restore"]
    assert read(c.get_object(BUCKET, "k")) == b"archived"
    c.restore_object(BUCKET, "k", dict(request, Days=5))
    c.put_object(BUCKET, b"x", "plain")
    refused(405, "RestoreNonArchiveObject", lambda: c.restore_object(BUCKET, "plain", request))


def throttled():
    """More than five uploads a second: the SDK's own retries get all of them through."""
    c = CosS3Client(CosConfig(Region=REGION, SecretId="AKIDEXAMPLE", SecretKey="exampleSecretKey", Scheme="http", Proxies={"http": ENDPOINT}), retry=3)
    for n in range(12):
        c.put_object(BUCKET, b"x", f"k{n}")
    refused(503, "SlowDown", lambda: [client().put_object(BUCKET, b"x", "more") for _ in range(1000)])


globals()[CASE]()
