/** The control API as an OpenAPI 3.1 document, made from its table of operations. */
import { z } from 'zod';
import { failureKinds, statusOfKind } from '../../base/failure.ts';
import { API_VERSION, operations, type OperationShape } from './operations.ts';

type Json = Readonly<Record<string, unknown>>;

const FailureAnswer = z
  .object({
    error: z.object({
      kind: z.enum(failureKinds),
      message: z
        .string()
        .describe('One sentence: what is wrong with what, then ` — ` and what to do.'),
      facts: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])),
    }),
  })
  .meta({ id: 'Failure', description: 'Why it was not done.' });

const description = [
  'JSON over HTTP on vbdd’s unix socket. The names here stay, and what they mean stays; new names may',
  'come, so a program leaves alone what it does not know. What would break that comes below another',
  'number than /v1. Sizes are in bytes, times in the unit that the name ends with. What there is not',
  'is null, never left out. Root, and who vbdkit.conf names as admin, may do everything; who it names',
  'as reader may GET, but for what says otherwise.',
].join('\n');

/** The document; a new one each time. */
export function openApi(): Json {
  const paths: Record<string, Record<string, unknown>> = {};
  for (const [operation, shape] of Object.entries<OperationShape>(operations)) {
    const [method = '', path = ''] = operation.split(' ');
    const parameters = pathParameters(path);
    paths[path] ??= parameters.length > 0 ? { parameters } : {};
    paths[path][method.toLowerCase()] = operationOf(shape);
  }
  paths['/metrics'] = { get: metrics };
  return {
    openapi: '3.1.0',
    info: {
      title: 'vbdd',
      version: API_VERSION,
      description,
      license: { name: 'MIT', identifier: 'MIT' },
    },
    servers: [
      {
        url: 'http://vbdd',
        description: '/run/vbdkit/vbdd.sock; the host’s name is not looked at',
      },
    ],
    paths,
    components: {
      schemas: componentsOf(),
      responses: {
        Failure: {
          description: `Why it was not done. ${failureKinds.map((kind) => `${kind}: ${statusOfKind(kind)}`).join(', ')}.`,
          content: { 'application/json': { schema: schemaOf(FailureAnswer) } },
        },
      },
    },
  };
}

const metrics = {
  summary: 'Metrics of vbdd and of guests’ disks, in Prometheus’ text format',
  responses: {
    200: { description: 'Done.', content: { 'text/plain': { schema: { type: 'string' } } } },
    default: { $ref: '#/components/responses/Failure' },
  },
};

function operationOf(shape: OperationShape): Json {
  const { summary, admins, query, body, status, answer, lines } = shape;
  const type = lines === true ? 'application/x-ndjson' : 'application/json';
  return {
    summary,
    ...(admins === true && { description: 'For admins only.' }),
    ...(query && { parameters: queryParameters(query) }),
    ...(body && {
      requestBody: { required: true, content: { 'application/json': { schema: schemaOf(body) } } },
    }),
    responses: {
      [status]: {
        description: answer ? 'Done.' : 'Done; the answer is empty.',
        ...(answer && { content: { [type]: { schema: schemaOf(answer) } } }),
      },
      default: { $ref: '#/components/responses/Failure' },
    },
  };
}

const pathWords: Readonly<Record<string, string>> = {
  guest: 'Name or domid.',
  vdev: 'The disk: xvda, or its number.',
  number: 'Of the loop device: 3 of /dev/loop3.',
};

function pathParameters(path: string): Json[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name = '']) => ({
    name,
    in: 'path',
    required: true,
    description: pathWords[name],
    schema: { type: 'string' },
  }));
}

function queryParameters(query: z.ZodObject): Json[] {
  const { properties = {}, required = [] } = schemaOf(query) as {
    properties?: Record<string, Json>;
    required?: string[];
  };
  return Object.entries(properties).map(([name, { description: said, ...schema }]) => ({
    name,
    in: 'query',
    required: required.includes(name),
    description: said,
    schema,
  }));
}

/** Every schema that has a name. */
function componentsOf(): Json {
  const { schemas } = z.toJSONSchema(z.globalRegistry, { ...how, uri: refOf });
  return Object.fromEntries(Object.entries(schemas).map(([id, schema]) => [id, plain(schema)]));
}

/** What callers send, defaults not filled in; of answers they are to bear names that are new. */
const how = { io: 'input', target: 'draft-2020-12' } as const;

function refOf(id: string): string {
  return `#/components/schemas/${id}`;
}

/** A schema in its place: one with a name is referred to. */
function schemaOf(schema: z.ZodType): Json {
  return plain(z.toJSONSchema(schema, how));
}

/** Without what only a document of its own would say, and with names where OpenAPI has them. */
function plain(schema: object): Json {
  const { $schema: _schema, $id: _id, $defs: _defs, ...rest } = schema as Record<string, unknown>;
  const text = JSON.stringify(rest).replaceAll('"#/$defs/', '"#/components/schemas/');
  return JSON.parse(text) as Json;
}
