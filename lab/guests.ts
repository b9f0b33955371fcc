/** The guests of one step: each has a name of its own, and none outlives the step. */
import { Failure } from '../src/base/failure.ts';
import type { Ran } from './agent.ts';
import { quoted, type Dom0 } from './dom0.ts';
import { configText, guestOf, whereabouts, type Guest, type GuestConfig } from './guest.ts';
import type { Machine } from './machine.ts';

export interface Guests extends AsyncDisposable {
  /**
   * Creates a guest and, unless it is paused or brings its own kernel, waits until it answers.
   * @throws Failure io with all that xl printed
   */
  create(config?: GuestConfig): Promise<Guest>;
  /**
   * A second domain with dom0's own file system and the checkout, for backends: `ask` runs bash in
   * it. Nothing serves disks there until it is told to: `ask('xl devd')`. It has a file /d/disk.img.
   */
  createDriver(): Promise<Guest>;
  /** What xl prints when it refuses to create this guest. */
  refused(config: GuestConfig): Promise<Ran>;
}

let counter = 0;

export function guestsOf(dom0: Dom0, machine: Machine): Guests {
  const made: Guest[] = [];

  async function xlCreate(config: GuestConfig): Promise<{ name: string; ran: Ran }> {
    const name = `g${process.pid}-${++counter}`;
    const path = `/root/${name}.cfg`;
    const flags = config.paused === true ? '-q -p' : '-q';
    const ran = await dom0.attempt(
      `echo ${quoted(configText(name, config))} > ${path}; xl create ${flags} ${path} && ${whereabouts(name)}`,
    );
    return { name, ran };
  }

  async function create(config: GuestConfig = {}): Promise<Guest> {
    const { name, ran } = await xlCreate(config);
    if (ran.code !== 0) throw new Failure('io', `xl create: ${ran.stdout}${ran.stderr}`);
    const guest = guestOf(dom0, machine, {
      name,
      facts: ran.stdout.trim(),
      type: config.type ?? 'pv',
    });
    made.push(guest);
    if (config.paused !== true && config.kernel === undefined) await guest.ready();
    return guest;
  }

  return {
    create,
    createDriver: async () => {
      const tree = await dom0.run(
        'cp /share/tree.tar /d/tree.tar; losetup --read-only --find --show /d/tree.tar',
      );
      const devices = [
        ['xvda', 'rw', '/dev/vdd'],
        ['xvdb', 'ro', '/dev/vdb'],
        ['xvdc', 'ro', tree],
      ];
      const disks = devices.map(
        ([vdev, access, device]) =>
          `format=raw,vdev=${vdev},access=${access},script=block-lab,target=${device}`,
      );
      try {
        return await create({ driver: true, memoryMb: 400, disks });
      } finally {
        // The kernel does it when the backend has closed the device as well.
        await dom0.run(`losetup --detach ${tree}`);
      }
    },
    refused: async (config) => {
      const { name, ran } = await xlCreate(config);
      if (ran.code !== 0) return ran;
      await dom0.run(`xl destroy ${name}`);
      throw new Failure('io', 'xl create was to be refused, and was not');
    },
    [Symbol.asyncDispose]: async () => {
      // Newest first: a guest goes before the driver domain that serves it.
      for (const guest of made.toReversed()) {
        await guest[Symbol.asyncDispose]();
      }
    },
  };
}
