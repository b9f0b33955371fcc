/** Properties of objects on hot paths that are computed at each look. */

/**
 * Adds getters to an object. V8 keeps an object that is written with a `get` as a dictionary, in
 * which every use of any of its properties is looked up by name; to this one it is not.
 */
export function withGetters<T extends object, G extends Record<string, () => unknown>>(
  object: T,
  getters: G,
): T & { readonly [K in keyof G]: ReturnType<G[K]> } {
  for (const [name, get] of Object.entries(getters)) {
    Object.defineProperty(object, name, { get, enumerable: true });
  }
  return object as T & { readonly [K in keyof G]: ReturnType<G[K]> };
}
