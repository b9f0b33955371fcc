/**
 * What a disk may hold while many requests are pending: of each sector, what was written to it and
 * from when till when. A read may see whatever was not over and replaced before it began.
 */

interface Write {
  readonly tag: number;
  readonly began: number;
  ended: number;
  /** A discard: the sector may read as zeros from then on, or as before. */
  readonly weak: boolean;
}

export interface RegisterModel {
  /** Something begins that gives the sectors a tag; call what comes back when it has ended. */
  write(sector: number, count: number, tagOf: number, weak?: boolean): () => void;
  /** A read begins; what comes back says which tags the sector may have had until now. */
  read(sector: number, count: number): (sector: number) => readonly number[];
}

export function createRegisterModel(sectors: number): RegisterModel {
  const history: Write[][] = Array.from({ length: sectors }, () => [
    { tag: 0, began: -1, ended: -1, weak: false },
  ]);
  const reads = new Set<number>();
  let now = 0;
  /** Drops what no read can see any more. */
  const prune = (sector: number): void => {
    const oldest = Math.min(now, ...reads);
    const all = history[sector] ?? [];
    history[sector] = all.filter((write) => !isReplaced(all, write, oldest));
  };
  return {
    write(sector, count, tag, weak = false) {
      const write: Write = { tag, began: now++, ended: Infinity, weak };
      for (let s = sector; s < sector + count; s++) history[s]?.push(write);
      return () => {
        write.ended = now++;
        for (let s = sector; s < sector + count; s++) prune(s);
      };
    },
    read() {
      const began = now++;
      reads.add(began);
      return (sector) => {
        reads.delete(began);
        const all = history[sector] ?? [];
        return all.filter((write) => !isReplaced(all, write, began)).map(({ tag }) => tag);
      };
    },
  };
}

/** Whether another write came after it, and was over by then. */
function isReplaced(all: readonly Write[], write: Write, by: number): boolean {
  return all.some((other) => !other.weak && other.began > write.ended && other.ended < by);
}
