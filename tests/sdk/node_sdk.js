// The official Node SDK against the emulator: `node_sdk.js ENDPOINT DIR`, with NODE_PATH naming its node_modules.
// The SDK takes the emulator for its HTTP proxy and believes to talk to COS.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const COS = require('cos-nodejs-sdk-v5');

const [endpoint, dir] = process.argv.slice(2);
const place = { Bucket: 'example-1250000000', Region: 'ap-guangzhou' };
const keys = { SecretId: 'AKIDEXAMPLE', SecretKey: 'exampleSecretKey' };
const open = (more) => new COS({ ...keys, Protocol: 'http:', Proxy: endpoint, Tunnel: false, AutoSwitchHost: false, ...more });

async function main() {
  const cos = open({ FileParallelLimit: 2, ChunkParallelLimit: 3 });
  const data = crypto.randomBytes(5 * 1024 * 1024 + 77);
  const file = path.join(dir, 'big');
  fs.writeFileSync(file, data);
  const Key = "dir/big 文件 (1)!'+.bin";

  const done = await cos.sliceUploadFile({ ...place, Key, FilePath: file, SliceSize: 1024 * 1024, ChunkSize: 1024 * 1024 });
  assert.strictEqual(done.statusCode, 200);
  assert.match(done.ETag, /-6"?$/);

  const got = await cos.getObject({ ...place, Key });
  assert.ok(got.Body.equals(data));
  const part = await cos.getObject({ ...place, Key, Range: 'bytes=1000-1999' });
  assert.strictEqual(part.statusCode, 206);
  assert.ok(part.Body.equals(data.subarray(1000, 2000)));

  for (const name of ['a', 'b c', 'd/e', 'd/f']) await cos.putObject({ ...place, Key: 'list/' + name, Body: name });
  const page = await cos.getBucket({ ...place, Prefix: 'list/', Delimiter: '/', MaxKeys: 2 });
  assert.deepStrictEqual(page.Contents.map((entry) => entry.Key), ['list/a', 'list/b c']);
  assert.strictEqual(page.IsTruncated, 'true');
  const rest = await cos.getBucket({ ...place, Prefix: 'list/', Delimiter: '/', Marker: page.NextMarker });
  assert.deepStrictEqual(rest.CommonPrefixes.map((entry) => entry.Prefix), ['list/d/']);

  const wrong = open({ SecretKey: 'other' });
  await assert.rejects(wrong.headBucket(place), (error) => error.statusCode === 403);
  await assert.rejects(wrong.getObject({ ...place, Key }), (error) => error.code === 'SignatureDoesNotMatch');
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
