/** Debian's libvirt with its Xen driver, in dom0 for the time of one step: dom0's packages do not hold it. */
import { readFileSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { cached, keyOf } from './cache.ts';
import { outside } from './outside.ts';
import { dom0Root, excluded, mmdebstrap, type Root } from './root.ts';
import type { Lab } from './step.ts';
import type { SuiteName } from './suites.ts';

const packages = 'libvirt-daemon libvirt-daemon-driver-xen libvirt-clients';

/** Packs the files of what these packages want beside dom0's. */
async function build(suite: SuiteName, root: Root, folder: string): Promise<void> {
  const status = join(folder, 'status');
  await writeFile(status, await outside('tar', ['-xOf', root.tar, './var/lib/dpkg/status']));
  const unpack = [
    'set -e; export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"; mkdir "$1/tree"',
    `apt-get -qq install --download-only ${packages}`,
    'for deb in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$deb" "$1/tree"; done',
    'cd "$1/tree/usr"',
    // Bookworm's libvirtd wants the other driver's package, and that driver a user of its own.
    'rm -f lib/*/libvirt/connection-driver/libvirt_driver_qemu.so',
    // QEMU emulates no processor with the one feature that libvirt takes for granted in all of them.
    'sed -i "/vme/d" share/libvirt/cpu_map/x86_486.xml',
    `tar -C .. ${excluded.map((path) => `--exclude=".${path}"`).join(' ')} -cf ../../libvirt.tar .`,
  ];
  await mmdebstrap(suite, '/dev/null', [
    '--variant=custom',
    '--format=null',
    `--setup-hook=upload ${status} /var/lib/dpkg/status`,
    `--customize-hook=${unpack.join('; ')}`,
    `--customize-hook=download /libvirt.tar ${join(folder, 'libvirt.tar')}`,
  ]);
  await rm(status);
}

async function archive(suite: SuiteName): Promise<Buffer> {
  const root = await dom0Root(suite);
  const key = keyOf(root.versions, readFileSync(import.meta.filename));
  const folder = await cached(`${suite}-libvirt`, key, (fresh) => build(suite, root, fresh));
  return readFile(join(folder, 'libvirt.tar'));
}

const slow = { timeoutMs: 300_000 };
const pidFile = '/run/libvirtd.pid';
/** What the archive has brought, to be removed from its end. */
const brought = '/run/lab-libvirt';

/** Runs one command of virsh's against Xen and returns what it printed. */
export type Virsh = (command: string) => Promise<string>;

/** Runs `work` while libvirtd serves Xen, and takes all of it away again. */
export async function withLibvirt(
  { config, dom0 }: Lab,
  work: (virsh: Virsh) => Promise<void>,
): Promise<void> {
  await dom0.put('/d/libvirt.tar', await archive(config.suite));
  try {
    await dom0.run(
      `tar -tf /d/libvirt.tar | while read -r path; do
        [ -e "/$path" ] || echo "/$path"
      done > ${brought}
      tar -C / --keep-directory-symlink --keep-old-files -xf /d/libvirt.tar && rm /d/libvirt.tar
      mkdir -p /var/log/libvirt && libvirtd --daemon --pid-file ${pidFile}`,
      slow,
    );
    await work((command) => dom0.run(`virsh -q -c xen:///system ${command}`, slow));
  } finally {
    // Its logs go to those of Xen, which are the evidence of a failed step.
    await dom0.run(
      `pid=$(cat ${pidFile}) && kill $pid && while kill -0 $pid; do sleep 0.1; done 2> /dev/null
      cp /var/log/libvirt/libvirtd.log /var/log/libvirt/libxl/libxl-driver.log /var/log/xen
      rm -rf /etc/libvirt /run/libvirt /var/cache/libvirt /var/lib/libvirt /var/log/libvirt
      tac ${brought} | xargs rm -df; rm -f ${brought} ${pidFile}`,
    );
  }
}
