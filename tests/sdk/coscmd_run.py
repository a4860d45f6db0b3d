"""coscmd against the emulator: `coscmd_run.py ENDPOINT DIR`. coscmd takes the emulator for its HTTP proxy and believes to talk to COS."""

import filecmp
import os
import subprocess
import sys

ENDPOINT, DIR = sys.argv[1:3]
CONF = os.path.join(DIR, "cos.conf")
with open(CONF, "w") as conf:
    conf.write("""[common]
secret_id = AKIDEXAMPLE
secret_key = exampleSecretKey
bucket = example-1250000000
region = ap-guangzhou
schema = http
max_thread = 3
part_size = 1
multiupload_threshold = 20
multidownload_threshold = 20
retry = 2
auto_switch_domain = False
""")


def coscmd(*words):
    tool = os.path.join(os.path.dirname(sys.executable), "coscmd")
    environment = dict(os.environ, http_proxy=ENDPOINT, HOME=DIR, NO_PROXY="")
    done = subprocess.run([tool, "-c", CONF, "-l", os.path.join(DIR, "coscmd.log"), *words], env=environment, text=True, capture_output=True)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout + done.stderr


tree = os.path.join(DIR, "tree")
os.makedirs(os.path.join(tree, "sub dir", "deep"))
for name, size in [("a.txt", 10), ("empty", 0), ("sub dir/b 文.txt", 5000), ("sub dir/deep/c+d.bin", 22 << 20)]:
    with open(os.path.join(tree, name), "wb") as file:
        file.write(os.urandom(size))


def same(left, right):
    compared = filecmp.dircmp(left, right)
    assert not (compared.left_only or compared.right_only or compared.funny_files), (compared.left_only, compared.right_only)
    _, different, errors = filecmp.cmpfiles(left, right, compared.common_files, shallow=False)
    assert not (different or errors), (different, errors)
    for name in compared.common_dirs:
        same(os.path.join(left, name), os.path.join(right, name))


coscmd("upload", "-r", tree + "/", "up/")
listed = coscmd("list", "-r", "up/")
for name in ["up/a.txt", "up/empty", "up/sub dir/b 文.txt", "up/sub dir/deep/c+d.bin"]:
    assert name in listed, (name, listed)
coscmd("download", "-r", "up/", os.path.join(DIR, "back"))
same(tree, os.path.join(DIR, "back"))

coscmd("copy", "-r", "example-1250000000.cos.ap-guangzhou.myqcloud.com/up/", "copied/")
coscmd("copy", "example-1250000000.cos.ap-guangzhou.myqcloud.com/up/a.txt", "single.txt")
coscmd("download", "-r", "copied/", os.path.join(DIR, "back2"))
same(tree, os.path.join(DIR, "back2"))

coscmd("delete", "-r", "-f", "up/")
listed = coscmd("list", "-r", "-a")
assert "up/a.txt" not in listed and "copied/a.txt" in listed and "single.txt" in listed, listed
coscmd("delete", "-f", "single.txt")
assert "single.txt" not in coscmd("list", "-r", "-a")
