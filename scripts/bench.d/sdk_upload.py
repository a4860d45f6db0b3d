"""One upload with the official Python SDK, which takes the emulator for its HTTP proxy: ADDR:PORT BUCKET KEY FILE CONNECTIONS."""

import sys
import time

from qcloud_cos import CosConfig, CosS3Client

address, bucket, key, path, connections = sys.argv[1:]
config = CosConfig(Region="ap-guangzhou", SecretId="AKIDEXAMPLE", SecretKey="exampleSecretKey", Scheme="http", Proxies={"http": f"http://{address}"})
begun = time.perf_counter()
CosS3Client(config).upload_file(bucket, key, path, PartSize=8, MAXThread=int(connections))
print("took", time.perf_counter() - begun)
