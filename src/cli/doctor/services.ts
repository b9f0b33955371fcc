/** vbdd and vbd-tap: whether they answer, are of one version, and may open what they need. */
import { readFileSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Failure } from '../../base/failure.ts';
import { type Config, DEFAULT_CONFIG_PATH, loadConfig } from '../../daemon/config.ts';
import { readVersion } from '../../sys/home.ts';
import { openUnixClient } from '../../tap/unix-client.ts';
import { DEFAULT_SOCKET } from '../client.ts';
import { fault, type Finding, type HostFolders, ok, warning } from './finding.ts';

interface Status {
  readonly version: string;
  readonly pid: number;
}

/** A guest's disk takes two descriptors at most; some are for all. */
const FEW_DESCRIPTORS = 4096;
/** One that has just started on a busy host answers, too. */
const ANSWER_MS = 10_000;

/** Looks at the configuration, then at vbdd, at `socket` where that is given, and at vbd-tap. */
export async function serviceFindings(
  folders: HostFolders,
  given: string | undefined,
): Promise<Finding[]> {
  const { config, finding } = readConfig();
  const socket = given ?? config?.socket ?? DEFAULT_SOCKET;
  const tap = config?.tap ?? '';
  return [
    finding,
    folder(dirname(socket)),
    ...(await program(folders, 'vbdd', socket, fault)),
    // Raw files and block devices need none.
    ...(tap === '' ? [] : await program(folders, 'vbd-tap', tap, warning)),
  ];
}

function readConfig(): { config: Config | undefined; finding: Finding } {
  try {
    const config = loadConfig(undefined);
    return { config, finding: ok('config', `${DEFAULT_CONFIG_PATH} is understood, or not there`) };
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    const finding = fault('config', thrown.message, 'mend it; vbdd does not start with it');
    return { config: undefined, finding };
  }
}

/** Who may write there could tell libxl's helper anything. */
function folder(path: string): Finding {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat === undefined) {
    return warning('run folder', `there is no ${path}: vbdd makes it`, 'start vbdd');
  }
  if (stat.uid !== 0 || (stat.mode & 0o022) !== 0) {
    const mode = (stat.mode & 0o777).toString(8);
    const says = `${path} belongs to uid ${stat.uid} with mode ${mode}`;
    return fault('run folder', says, `chown root ${path}; chmod 755 ${path}`);
  }
  return ok('run folder', `${path} is root's alone to write to`);
}

async function program(
  folders: HostFolders,
  name: string,
  socket: string,
  whenAway: typeof fault,
): Promise<Finding[]> {
  const client = openUnixClient(socket, { name, advice: `systemctl start ${name}` });
  try {
    const soon = AbortSignal.timeout(ANSWER_MS);
    const { version, pid } = await client.call<Status>('GET', '/v1/status', undefined, soon);
    return [versionOf(name, version), ...limit(folders, name, pid)];
  } catch (thrown) {
    if (!(thrown instanceof Failure)) throw thrown;
    const [says = '', advice = ''] = thrown.message.split(' — ');
    return [whenAway(name, says, advice)];
  }
}

function versionOf(name: string, version: string): Finding {
  const own = readVersion();
  if (version === own) return ok(name, `${name} ${version} answers`);
  const says = `${name} ${version} runs, ${own} is installed`;
  return warning(name, says, `systemctl restart ${name}: guests go on`);
}

function limit({ proc }: HostFolders, name: string, pid: number): Finding[] {
  let most: number;
  try {
    const limits = readFileSync(join(proc, String(pid), 'limits'), 'latin1');
    most = Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? Infinity);
  } catch {
    return [];
  }
  if (most >= FEW_DESCRIPTORS) return [];
  const says = `${name} may have ${most} files open: enough for ${Math.floor(most / 2)} disks`;
  return [warning(`${name} limits`, says, 'set LimitNOFILE=65536 in its unit')];
}
