/** Images as trees: each parent with the images that are made on it, and the disks that use them. */
import type { VNode } from 'preact';
import type { DiskView } from '../daemon/api/shapes.ts';
import { type FileNode, forestOf } from './forest.ts';
import { nameOf } from './names.ts';
import { keyOf } from './rates.ts';
import { useModel } from './view.ts';
import { shown } from './words.ts';

/** The page of all chains. */
export function Chains(): VNode {
  const { disks } = useModel();
  const trees = forestOf(disks.values());
  return (
    <>
      <h1>Chains of images</h1>
      <p>Each image is below its parent; beside it are the disks that have it as their own.</p>
      {trees.length === 0 ? <p>No disk has an image.</p> : <Trees nodes={trees} />}
    </>
  );
}

/** One above the other, and what is on each below it. */
export function Trees({ nodes }: { readonly nodes: readonly FileNode[] }): VNode {
  return (
    <ul class="tree">
      {nodes.map((node) => (
        <li key={node.path}>
          <code>
            <bdi>{shown(node.path)}</bdi>
          </code>
          {node.disks.map((disk) => (
            <DiskLink key={keyOf(disk)} disk={disk} />
          ))}
          {node.children.length > 0 && <Trees nodes={node.children} />}
        </li>
      ))}
    </ul>
  );
}

function DiskLink({ disk }: { readonly disk: DiskView }): VNode {
  return (
    <>
      {' '}
      <a href={`#/disk/${keyOf(disk)}`} class="disk">
        {disk.vdev} of <bdi>{nameOf(disk)}</bdi> ({disk.mode})
      </a>
    </>
  );
}
