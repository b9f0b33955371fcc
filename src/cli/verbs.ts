/** The verbs of vbd: one table, from which help, completion and the pages of the manual are made. */
import type { Command } from '@stricli/core';
import type { CliContext } from './context.ts';

/** What a verb is about; each has its page of the manual. */
export type Subject = 'disks' | 'host' | 'images';

export interface Verb {
  readonly subject: Subject;
  /** Its code, loaded only when it is used. */
  readonly load: () => Promise<Command<CliContext>>;
  /** xl's name for it. */
  readonly alias?: string;
}

export const verbs: Readonly<Record<string, Verb>> = {
  attach: {
    subject: 'disks',
    alias: 'block-attach',
    load: async () => (await import('./commands/disks.ts')).attachCommand,
  },
  detach: {
    subject: 'disks',
    alias: 'block-detach',
    load: async () => (await import('./commands/disks.ts')).detachCommand,
  },
  list: {
    subject: 'disks',
    alias: 'block-list',
    load: async () => (await import('./commands/list.ts')).listCommand,
  },
  why: {
    subject: 'disks',
    load: async () => (await import('./commands/why.ts')).whyCommand,
  },
  who: {
    subject: 'disks',
    load: async () => (await import('./commands/who.ts')).whoCommand,
  },
  resize: {
    subject: 'disks',
    load: async () => (await import('./commands/resize.ts')).resizeCommand,
  },
  stat: {
    subject: 'disks',
    load: async () => (await import('./commands/traffic.ts')).statCommand,
  },
  limit: {
    subject: 'disks',
    load: async () => (await import('./commands/traffic.ts')).limitCommand,
  },
  pause: {
    subject: 'disks',
    load: async () => (await import('./commands/pause.ts')).pauseCommand,
  },
  resume: {
    subject: 'disks',
    load: async () => (await import('./commands/pause.ts')).resumeCommand,
  },
  insert: {
    subject: 'disks',
    alias: 'cd-insert',
    load: async () => (await import('./commands/media.ts')).insertCommand,
  },
  eject: {
    subject: 'disks',
    alias: 'cd-eject',
    load: async () => (await import('./commands/media.ts')).ejectCommand,
  },
  top: {
    subject: 'disks',
    load: async () => (await import('./commands/top.ts')).topCommand,
  },
  events: {
    subject: 'disks',
    load: async () => (await import('./commands/events.ts')).eventsCommand,
  },
  loop: {
    subject: 'host',
    load: async () => (await import('./commands/loop.ts')).loopCommand,
  },
  spec: {
    subject: 'host',
    load: async () => (await import('./commands/spec.ts')).specCommand,
  },
  setup: {
    subject: 'host',
    load: async () => (await import('./commands/setup.ts')).setupCommand,
  },
  doctor: {
    subject: 'host',
    load: async () => (await import('./commands/doctor.ts')).doctorCommand,
  },
  serve: {
    subject: 'images',
    load: async () => (await import('./commands/serve.ts')).serveCommand,
  },
  info: {
    subject: 'images',
    load: async () => (await import('./commands/info.ts')).infoCommand,
  },
  map: {
    subject: 'images',
    load: async () => (await import('./commands/map.ts')).mapCommand,
  },
  check: {
    subject: 'images',
    load: async () => (await import('./commands/check.ts')).checkCommand,
  },
  snapshot: {
    subject: 'images',
    load: async () => (await import('./commands/snapshot.ts')).snapshotCommand,
  },
  commit: {
    subject: 'images',
    load: async () => (await import('./commands/commit.ts')).commitCommand,
  },
  rebase: {
    subject: 'images',
    load: async () => (await import('./commands/rebase.ts')).rebaseCommand,
  },
  repair: {
    subject: 'images',
    load: async () => (await import('./commands/repair.ts')).repairCommand,
  },
  create: {
    subject: 'images',
    load: async () => (await import('./commands/create.ts')).createCommand,
  },
  convert: {
    subject: 'images',
    load: async () => (await import('./commands/convert.ts')).convertCommand,
  },
  compare: {
    subject: 'images',
    load: async () => (await import('./commands/compare.ts')).compareCommand,
  },
  measure: {
    subject: 'images',
    load: async () => (await import('./commands/measure.ts')).measureCommand,
  },
  demo: {
    subject: 'host',
    load: async () => (await import('./commands/demo.ts')).demoCommand,
  },
};

/** The verb that a word means: its own name or xl's for it; undefined for another word. */
export function verbOf(word: string): string | undefined {
  if (Object.hasOwn(verbs, word)) return word;
  return Object.keys(verbs).find((name) => verbs[name]?.alias === word);
}
