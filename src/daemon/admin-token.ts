/** The admin token of the page: in a file of root's, given with each request that wants to change something. */
import { createHash, timingSafeEqual } from 'node:crypto';
import { Failure } from '../base/failure.ts';
import { readSecret } from './secret-file.ts';

const LEAST_CHARACTERS = 16;
const MOST_BYTES = 4096;

/** Whether `given` is what the file has now. @throws Failure of the file */
export async function isAdminToken(path: string, given: string): Promise<boolean> {
  const token = await readToken(path);
  // Of one length, so that the time it takes tells nothing.
  return timingSafeEqual(digestOf(token), digestOf(given));
}

/** What the file has, without the space around it. @throws Failure of the file */
export async function readToken(path: string): Promise<string> {
  const requireSize = (sizeBytes: number): void => {
    if (sizeBytes <= MOST_BYTES) return;
    throw new Failure('invalid', `the token file ${path} has over ${MOST_BYTES} bytes`);
  };
  const what = { what: 'token file', namedBy: 'page_token' } as const;
  const bytes = await readSecret({ path, ...what, requireSize });
  const token = Buffer.from(bytes).toString('utf8').trim();
  if (token.length >= LEAST_CHARACTERS) return token;
  const advice = 'openssl rand -hex 32 makes one';
  const sentence = `the token in ${path} is shorter than ${LEAST_CHARACTERS} characters — ${advice}`;
  throw new Failure('invalid', sentence);
}

function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest();
}
