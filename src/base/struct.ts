/**
 * A binary layout said once as a table: fields in order, the total size checked when the module
 * loads, whole-struct `get` and `put` for headers, and `at.field` offsets for hot paths.
 */

export interface Field<T> {
  /** Size in bytes. */
  readonly size: number;
  get(view: DataView, at: number): T;
  put(view: DataView, at: number, value: T): void;
}

type Fields = Readonly<Record<string, Field<unknown>>>;
type Values<F extends Fields> = { [K in keyof F]: F[K] extends Field<infer T> ? T : never };

export interface Layout<F extends Fields> {
  /** Size in bytes of the whole struct. */
  readonly size: number;
  /** Offset in bytes of each field. */
  readonly at: { readonly [K in keyof F]: number };
  /** Reads every field of the struct that begins at byte `at` of `bytes`. */
  get(bytes: Uint8Array, at?: number): Values<F>;
  /** Writes the named fields into `bytes` and leaves the others as they are. */
  put(bytes: Uint8Array, values: Partial<Values<F>>, at?: number): void;
  /** A new zeroed struct with the named fields set. */
  make(values: Partial<Values<F>>): Uint8Array<ArrayBuffer>;
}

/**
 * Declares a layout of exactly `size` bytes.
 * @throws Error (a bug) when the fields do not add up to `size`.
 */
export function struct<const F extends Fields>(size: number, fields: F): Layout<F> {
  const offsets: Record<string, number> = {};
  let end = 0;
  for (const [name, field] of Object.entries(fields)) {
    offsets[name] = end;
    end += field.size;
  }
  if (end !== size) throw new Error(`the fields take ${end} bytes, the layout says ${size}`);
  const put = (bytes: Uint8Array, values: Partial<Values<F>>, at = 0): void => {
    const view = viewOf(bytes);
    for (const [name, value] of Object.entries(values)) {
      const field = fields[name];
      if (field === undefined) throw new Error(`the layout has no field ${name}`);
      field.put(view, at + (offsets[name] ?? 0), value);
    }
  };
  return {
    size,
    at: offsets as Layout<F>['at'],
    get(bytes, at = 0) {
      const view = viewOf(bytes);
      const values: Record<string, unknown> = {};
      for (const [name, field] of Object.entries(fields)) {
        values[name] = field.get(view, at + (offsets[name] ?? 0));
      }
      return values as Values<F>;
    },
    put,
    make(values) {
      const bytes = new Uint8Array(size);
      put(bytes, values);
      return bytes;
    },
  };
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function integer(size: number, name: string, littleEndian: boolean): Field<number> {
  const get = `get${name}` as 'getUint32';
  const set = `set${name}` as 'setUint32';
  return {
    size,
    get: (view, at) => view[get](at, littleEndian),
    put: (view, at, value) => view[set](at, value, littleEndian),
  };
}

/** 64 bits as a number; a value past 2^53 is refused, for no disk is that large. */
function wide(littleEndian: boolean): Field<number> {
  return {
    size: 8,
    get(view, at) {
      const high = view.getUint32(at + (littleEndian ? 4 : 0), littleEndian);
      const low = view.getUint32(at + (littleEndian ? 0 : 4), littleEndian);
      const value = high * 2 ** 32 + low;
      if (!Number.isSafeInteger(value)) throw new RangeError('a 64-bit field is past 2^53');
      return value;
    },
    put(view, at, value) {
      view.setUint32(at + (littleEndian ? 4 : 0), Math.floor(value / 2 ** 32), littleEndian);
      view.setUint32(at + (littleEndian ? 0 : 4), value % 2 ** 32, littleEndian);
    },
  };
}

export const u8: Field<number> = integer(1, 'Uint8', true);
export const u16le: Field<number> = integer(2, 'Uint16', true);
export const u32le: Field<number> = integer(4, 'Uint32', true);
export const i32le: Field<number> = integer(4, 'Int32', true);
export const u64le: Field<number> = wide(true);
export const u16be: Field<number> = integer(2, 'Uint16', false);
export const u32be: Field<number> = integer(4, 'Uint32', false);
export const u64be: Field<number> = wide(false);

/** 64 bits that may use all of them: device numbers and inodes of some file systems. */
export const big64le: Field<bigint> = {
  size: 8,
  get: (view, at) => view.getBigUint64(at, true),
  put: (view, at, value) => view.setBigUint64(at, value, true),
};

/** `size` raw bytes; `get` returns a copy. */
export function bytes(size: number): Field<Uint8Array> {
  return {
    size,
    get: (view, at) => new Uint8Array(view.buffer, view.byteOffset + at, size).slice(),
    put(view, at, value) {
      if (value.length > size) throw new RangeError(`${value.length} bytes in a field of ${size}`);
      new Uint8Array(view.buffer, view.byteOffset + at, size).set(value);
    },
  };
}
