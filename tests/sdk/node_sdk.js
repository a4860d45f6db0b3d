// The official Node SDK against the emulator: `node_sdk.js CASE ENDPOINT DIR`, with NODE_PATH naming its node_modules.
// The SDK takes the emulator for its HTTP proxy and believes to talk to COS.
'use strict';
const assert = require('assert');
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const COS = require('cos-nodejs-sdk-v5');

const [kase, endpoint, dir] = process.argv.slice(2);
const place = { Bucket: 'example-1250000000', Region: 'ap-guangzhou' };
const keys = { SecretId: 'AKIDEXAMPLE', SecretKey: 'exampleSecretKey' };
const open = (more) => new COS({ ...keys, Protocol: 'http:', Proxy: endpoint, Tunnel: false, AutoSwitchHost: false, ...more });

async function objects() {
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

async function versions() {
  const cos = open();
  const Key = 'a 文';
  assert.strictEqual((await cos.getBucketVersioning(place)).VersioningConfiguration.Status, undefined);
  await cos.putBucketVersioning({ ...place, VersioningConfiguration: { Status: 'Enabled' } });
  assert.strictEqual((await cos.getBucketVersioning(place)).VersioningConfiguration.Status, 'Enabled');
  const one = (await cos.putObject({ ...place, Key, Body: 'one' })).VersionId;
  const two = (await cos.putObject({ ...place, Key, Body: 'two' })).VersionId;
  assert.ok(one && two && one !== two);
  const gone = await cos.deleteObject({ ...place, Key });
  assert.strictEqual(gone.headers['x-cos-delete-marker'], 'true');
  await assert.rejects(cos.getObject({ ...place, Key }), (error) => error.statusCode === 404 && error.code === 'NoSuchKey');
  assert.strictEqual((await cos.getObject({ ...place, Key, VersionId: one })).Body.toString(), 'one');
  assert.strictEqual((await cos.headObject({ ...place, Key, VersionId: two })).headers['x-cos-version-id'], two);
  const page = await cos.listObjectVersions({ ...place, Prefix: 'a', MaxKeys: 2, EncodingType: 'url' });
  assert.deepStrictEqual(page.DeleteMarkers.map((entry) => [decodeURIComponent(entry.Key), entry.IsLatest]), [[Key, 'true']]);
  assert.deepStrictEqual(page.Versions.map((entry) => entry.VersionId), [two]);
  assert.strictEqual(page.NextVersionIdMarker, two);
  const KeyMarker = decodeURIComponent(page.NextKeyMarker);
  const rest = await cos.listObjectVersions({ ...place, Prefix: 'a', KeyMarker, VersionIdMarker: page.NextVersionIdMarker });
  assert.deepStrictEqual(rest.Versions.map((entry) => entry.VersionId), [one]);
  assert.strictEqual(rest.IsTruncated, 'false');
  const CopySource = `${place.Bucket}.cos.${place.Region}.myqcloud.com/${encodeURIComponent(Key)}?versionId=${one}`;
  const copied = await cos.putObjectCopy({ ...place, Key: 'copied', CopySource });
  assert.ok(copied.VersionId);
  assert.strictEqual((await cos.getObject({ ...place, Key: 'copied' })).Body.toString(), 'one');
  await cos.deleteObject({ ...place, Key, VersionId: gone.headers['x-cos-version-id'] });
  assert.strictEqual((await cos.getObject({ ...place, Key })).Body.toString(), 'two');
  const done = await cos.deleteMultipleObject({ ...place, Objects: [{ Key, VersionId: one }, { Key, VersionId: two }] });
  assert.deepStrictEqual(done.Deleted.map((entry) => entry.VersionId), [one, two]);
}

async function restore() {
  const cos = open();
  const put = () => cos.putObject({ ...place, Key: 'k', Body: 'archived', StorageClass: 'ARCHIVE' });
  const { VersionId } = await put();
  await put();
  await assert.rejects(cos.getObject({ ...place, Key: 'k' }), (error) => error.statusCode === 403 && error.code === 'InvalidObjectState');
  const RestoreRequest = { Days: 1, CASJobParameters: { Tier: 'Standard' } };
  assert.strictEqual((await cos.restoreObject({ ...place, Key: 'k', VersionId, RestoreRequest })).statusCode, 202);
  await assert.rejects(cos.restoreObject({ ...place, Key: 'k', VersionId, RestoreRequest }), (error) => error.code === 'RestoreAlreadyInProgress');
  const state = async () => (await cos.headObject({ ...place, Key: 'k', VersionId })).headers['x-cos-restore'];
  for (const begun = Date.now(); /"true"/.test(await state()); ) {
    assert.ok(Date.now() - begun < 20000);
    await new Promise((later) => setTimeout(later, 50));
  }
  assert.match(await state(), /^ongoing-request="false", expiry-date=".* GMT"$/);
  assert.strictEqual((await cos.getObject({ ...place, Key: 'k', VersionId })).Body.toString(), 'archived');
  await assert.rejects(cos.getObject({ ...place, Key: 'k' }), (error) => error.code === 'InvalidObjectState');
}

({ objects, versions, restore })[kase]().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
