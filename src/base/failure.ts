/**
 * The one error type: a small fixed set of kinds, each with its exit code, HTTP status and errno,
 * so that the journal, the API, `hotplug-error` and the command line say the same sentence.
 */

const kinds = {
  invalid: { exit: 2, http: 400, errno: 'EINVAL' },
  'not-found': { exit: 1, http: 404, errno: 'ENOENT' },
  denied: { exit: 1, http: 403, errno: 'EACCES' },
  'in-use': { exit: 1, http: 409, errno: 'EBUSY' },
  exists: { exit: 1, http: 409, errno: 'EEXIST' },
  gone: { exit: 1, http: 410, errno: 'ENODEV' },
  unsupported: { exit: 1, http: 501, errno: 'EOPNOTSUPP' },
  corrupt: { exit: 1, http: 422, errno: 'EIO' },
  exhausted: { exit: 1, http: 503, errno: 'ENOSPC' },
  unavailable: { exit: 1, http: 503, errno: 'EAGAIN' },
  timeout: { exit: 1, http: 504, errno: 'ETIMEDOUT' },
  io: { exit: 1, http: 500, errno: 'EIO' },
} as const;

export type FailureKind = keyof typeof kinds;

export const failureKinds = Object.keys(kinds) as FailureKind[];

/** Status of an API answer that carries a failure of that kind. */
export function statusOfKind(kind: FailureKind): number {
  return kinds[kind].http;
}

/** What a failure is about: small facts that a tool may want without parsing the sentence. */
export type FailureFacts = Readonly<Record<string, string | number | boolean | undefined>>;

/**
 * A thing that went wrong in the world (never a bug of ours; those are plain errors).
 * `message` is one sentence: lower-case start, no full stop, what is wrong with what, then what to do.
 */
export class Failure extends Error {
  override readonly name = 'Failure';
  readonly kind: FailureKind;
  readonly facts: FailureFacts;

  constructor(kind: FailureKind, message: string, facts: FailureFacts = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
    this.facts = facts;
  }

  /** Exit code of a command that ends with this failure. */
  get exitCode(): number {
    return kinds[this.kind].exit;
  }

  /** Status of an API answer that carries this failure. */
  get httpStatus(): number {
    return statusOfKind(this.kind);
  }

  /** The errno name that a guest or a store peer is given for it. */
  get errno(): string {
    return kinds[this.kind].errno;
  }

  toJSON(): { error: { kind: FailureKind; message: string; facts: FailureFacts } } {
    return { error: { kind: this.kind, message: this.message, facts: this.facts } };
  }
}

/** True when `text` names a kind; the client uses it to rebuild a failure that came as JSON. */
export function isFailureKind(text: unknown): text is FailureKind {
  return typeof text === 'string' && Object.hasOwn(kinds, text);
}

/** A library's message in the form of our sentences: lower-case start, no full stop. */
export function asSentence(message: string): string {
  return message.charAt(0).toLowerCase() + message.slice(1).replace(/\.$/, '');
}

/** The sentence of anything thrown: a failure's own, or that of a bug, marked as one. */
export function sentenceOf(thrown: unknown): string {
  if (thrown instanceof Failure) return thrown.message;
  return `internal error: ${thrown instanceof Error ? thrown.message : String(thrown)}`;
}
