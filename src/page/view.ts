/** What the components of the page have in common: the model, where the page is, and what is asked once. */
import { createContext } from 'preact';
import { useContext, useEffect, useLayoutEffect, useReducer, useState } from 'preact/hooks';
import { createModel, type Model } from './model.ts';

export const ModelContext = createContext<Model>(createModel());

/** The model; the component is drawn anew when it is another. */
export function useModel(): Model {
  const model = useContext(ModelContext);
  const [, draw] = useReducer((count: number) => count + 1, 0);
  // Before it is painted: what is told after that is not missed.
  useLayoutEffect(() => {
    const listener = model.onChange(() => draw(undefined));
    return () => listener[Symbol.dispose]();
  }, [model]);
  return model;
}

/** The part of the address after `#`. */
export function usePlace(): string {
  const [place, setPlace] = useState(location.hash);
  useEffect(() => {
    const look = (): void => setPlace(location.hash);
    addEventListener('hashchange', look);
    return () => removeEventListener('hashchange', look);
  }, []);
  return place;
}

/** What was asked: what came, or why nothing did. */
export interface Asked<T> {
  readonly value?: T;
  readonly error?: string;
}

/** Asks when the component is there, and again whenever one of `reasons` is another; the last answer stays until then. */
export function useAsked<T>(look: () => Promise<T>, reasons: readonly unknown[]): Asked<T> {
  const [asked, setAsked] = useState<Asked<T>>({});
  useEffect(() => {
    let isWanted = true;
    look().then(
      (value) => isWanted && setAsked({ value }),
      (thrown: unknown) =>
        isWanted && setAsked({ error: thrown instanceof Error ? thrown.message : String(thrown) }),
    );
    return () => {
      isWanted = false;
    };
  }, reasons);
  return asked;
}
