/**
 * Random histories, as a process of its own: vbdd is in it, and its descriptors are looked at. The
 * soak has several of them at work.
 */
import fc from 'fast-check';
import { histories, playHistory } from '../daemon/histories.ts';
import { startSite } from '../daemon/history-site.ts';

/** What it is to do. */
export interface HistoriesOrder {
  readonly seed: number;
  readonly most: number;
  readonly minutes: number;
}

/** What it says: after each history, and at the end why one ended wrong, or nothing. */
export type HistoriesWord = { readonly played: number } | { readonly wrong: string | undefined };

const MOST_STEPS = 30;

async function play({ seed, most, minutes }: HistoriesOrder): Promise<string | undefined> {
  let played = 0;
  const property = fc.asyncProperty(histories(MOST_STEPS), async (commands) => {
    played += 1;
    say({ played });
    await playHistory(startSite, commands);
  });
  const interruptAfterTimeLimit = minutes * 60_000;
  // The first that ends wrong says most: what it leaves behind spoils those that come after it.
  const budget = { seed, numRuns: most, interruptAfterTimeLimit, endOnFailure: true };
  const result = await fc.check(property, budget);
  // A run that was interrupted by its time limit found nothing.
  if (result.counterexample === null) return undefined;
  const { errorInstance: thrown } = result;
  const why = thrown instanceof Error ? thrown.message : 'no reason';
  return `${fc.defaultReportMessage(result) ?? 'no report'}\n${why}`;
}

function say(word: HistoriesWord): void {
  process.send?.(word);
}

process.once('disconnect', () => process.exit(1));
process.once('message', (order: HistoriesOrder) => {
  void play(order).then((wrong) => process.send?.({ wrong }, () => process.exit(0)));
});
