/** Values from outside, checked against a schema: what is wrong is one sentence that names the field. */
import type { z } from 'zod';
import { asSentence, Failure } from './failure.ts';

/**
 * The value as the schema has it, defaults filled in.
 * @param where what is read, for the sentence: a file's path, `the request`
 * @throws Failure invalid
 */
export function checkSchema<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issues = result.error.issues.map(({ path, message }) => {
    const said = asSentence(message);
    return path.length === 0 ? said : `${path.join('.')}: ${said}`;
  });
  throw new Failure('invalid', `${where}: ${issues.join('; ')}`);
}
