/** A snapshot inside an image, as a disk that is read. */
import { Failure } from '../base/failure.ts';
import type { Image, Snapshots } from './image.ts';

/** @throws Failure unsupported where the format has none */
export function snapshotsOf(image: Image): Snapshots {
  if (image.snapshots !== undefined) return image.snapshots;
  const what = `${image.path} is ${image.format}, which has no snapshots inside`;
  throw new Failure('unsupported', `${what} — vbd snapshot IMAGE CHILD makes a child of it`);
}

/** @throws Failure unsupported when snapshots inside would read otherwise once another image is below them */
export function requireNoSnapshots({ path, snapshots }: Image): void {
  const count = snapshots?.list().length ?? 0;
  if (count === 0) return;
  const what = `${path} has ${count} snapshots inside, which would not hold what they held`;
  throw new Failure(
    'unsupported',
    `${what} — delete them with vbd snapshot -d, or convert the disk`,
  );
}

/** The disk as it was then; it is closed with the image. @throws Failure not-found | unsupported */
export function snapshotView(image: Image, wanted: string): Image {
  const snapshots = snapshotsOf(image);
  const map = snapshots.mapper(wanted);
  const all = snapshots.list();
  const found = all.find(({ id }) => id === wanted) ?? all.find(({ name }) => name === wanted);
  const sizeBytes = found?.sizeBytes ?? image.sizeBytes;
  return { ...image, writable: false, sizeBytes, map };
}
