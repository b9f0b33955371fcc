/** A way to a xenstored: bytes there, bytes back, until it closes. */

/** What a transport tells of; never called from within `connect` or `send`. */
export interface TransportEvents {
  /** The next bytes of the stream, valid during the call. */
  onBytes(chunkView: Uint8Array): void;
  /** The connection is gone, by whichever end; called once, and nothing after it. */
  onClose(cause?: Error): void;
}

export interface Transport {
  /** Sends one batch of whole messages; the bytes belong to the transport from now on. */
  send(bytes: Buffer): void;
  /** Closes it; `onClose` follows. */
  close(): void;
  /**
   * Where relative paths begin when the far end does not know who is asking: C xenstored takes
   * those of a socket as beginning at the root. The client resolves them itself then.
   */
  readonly home?: string;
}

/**
 * Opens a connection.
 * @throws Failure unavailable
 */
export type Connect = (events: TransportEvents) => Promise<Transport>;
