/** Takes hold of a device that was given to a guest before this vbdd started, once it is seen to be right. */
import { Failure } from '../base/failure.ts';
import { type BackendNodes, parsePhysicalDevice } from '../disk/backend-nodes.ts';
import { deviceIdentity } from '../disk/identity.ts';
import { LOOP_MAJOR } from '../sys/loop.ts';
import type { DiskRecord, DiskWorld, Held } from './disk-record.ts';
import type { LoopClaim } from './loop-pool.ts';
import { imageOfVbd } from './look.ts';
import { deviceMember, type OpenTarget, openTarget } from './target.ts';

/**
 * Holds the device that `physical-device` names. Nothing is bound or freed here.
 * @param diskSequence the kernel's number of the binding that was given, where the store has it
 * @throws Failure gone when the device is not what the disk was given; in-use when someone else has it
 */
export function adoptDevice(
  world: DiskWorld,
  record: DiskRecord,
  nodes: BackendNodes,
  physicalDevice: string,
  diskSequence: number | undefined,
): Held {
  const device = parsePhysicalDevice(physicalDevice);
  if (device === undefined) {
    throw new Failure(
      'invalid',
      `physical-device ${physicalDevice} is not major:minor — detach it`,
    );
  }
  using target = tryOpen(nodes);
  if (target?.facts.kind === 'block') return adoptBlock(world, record, device, target);
  if (device.major === LOOP_MAJOR) {
    const loop = world.loops.adopt(device.minor, { diskSequence, readOnly: nodes.mode === 'r' });
    // A number is not given twice while it is in use: then it matters no more what the path says.
    const inUse = diskSequence !== undefined || world.backendOf(record.key) === 'there';
    return adoptLoop(loop, nodes, inUse ? undefined : target);
  }
  throw new Failure('gone', `${nodes.params} is no longer the device ${physicalDevice}`);
}

/** The path may be gone by now: then the device alone says what it is. */
function tryOpen(nodes: BackendNodes): OpenTarget | undefined {
  try {
    return openTarget(imageOfVbd(nodes).path, nodes.mode);
  } catch (thrown) {
    if (thrown instanceof Failure) return undefined;
    throw thrown;
  }
}

function adoptLoop(loop: LoopClaim, nodes: BackendNodes, target: OpenTarget | undefined): Held {
  const { identity, device, devicePath, diskSequence } = loop;
  if (target !== undefined && target.member.identity !== identity) {
    loop[Symbol.dispose]();
    throw new Failure('gone', `${devicePath} is bound to another file than ${nodes.params}`);
  }
  const stack = [identity, ...deviceMember(device).stack];
  const member = { identity, stack, mode: nodes.mode, path: nodes.params };
  const facts = { kind: 'loop', device, devicePath, diskSequence, member } as const;
  return { facts, loop, [Symbol.dispose]: () => loop[Symbol.dispose]() };
}

function adoptBlock(
  world: DiskWorld,
  record: DiskRecord,
  device: { major: number; minor: number },
  target: OpenTarget,
): Held {
  const { member, facts: file } = target;
  if (deviceIdentity(device) !== member.identity) {
    throw new Failure('gone', `${member.path} is another device than when it was attached`);
  }
  const claim = world.devices.acquire({
    fd: target.fd.number,
    device: file.represents,
    readOnly: member.mode === 'r',
    hostShares: false,
    path: record.nodes?.params ?? member.path,
  });
  const { diskSequence } = claim;
  const facts = { kind: 'device', device, devicePath: member.path, diskSequence, member } as const;
  return { facts, [Symbol.dispose]: () => claim[Symbol.dispose]() };
}
