/**
 * The nodes that libxl writes for a new PV domain before it gives it devices, in libxl's order, as
 * traced on a real Xen. Left out are its console's and its kernel's.
 */
import type { StoreNode } from '../disk/libxl-nodes.ts';
import type { Permission } from '../xenstore/store.ts';

export interface DomainNodesOptions {
  readonly domid: number;
  readonly name: string;
  readonly uuid: string;
  /** For a stub domain: the guest whose devices it emulates. */
  readonly target?: number | undefined;
}

/** The directories that are a domain's own. */
export interface DomainPaths {
  readonly domain: string;
  readonly vm: string;
  readonly libxl: string;
}

/** The directories that libxl writes for a domain. */
export function domainPaths(domid: number, uuid: string): DomainPaths {
  return { domain: `/local/domain/${domid}`, vm: `/vm/${uuid}`, libxl: `/libxl/${domid}` };
}

/** What the guest may read, and what it may write. */
const readable = ['cpu', 'memory', 'device', 'control'];
const writable = ['data', 'drivers', 'feature', 'attr', 'error'];
const controls = ['shutdown', 'feature-poweroff', 'feature-reboot', 'feature-suspend', 'sysrq'];
const memoryKib = '163840';
/** The guest's store ring: grants and ports that nothing here maps. */
const store = { port: '1', ringRef: '111617' };

/** The first transaction: the skeleton. Each of the three {@link domainPaths} is removed first. */
export function skeletonNodes(options: DomainNodesOptions): StoreNode[] {
  const { domid, name, uuid } = options;
  const { domain, vm, libxl } = domainPaths(domid, uuid);
  const hosts: Permission[] = [{ access: 'n', domid: 0 }];
  const shown: Permission[] = [...hosts, { access: 'r', domid }];
  const own: Permission[] = [{ access: 'n', domid }];
  const folder = (path: string, permissions: Permission[]): StoreNode => ({
    path,
    value: '',
    permissions,
  });
  const below = (names: readonly string[], permissions: Permission[]): StoreNode[] =>
    names.map((child) => folder(`${domain}/${child}`, permissions));
  return [
    folder(domain, shown),
    folder(vm, shown),
    folder(libxl, hosts),
    folder(`${libxl}/device`, hosts),
    { path: `${domain}/vm`, value: vm },
    { path: `${domain}/name`, value: name },
    { path: `${vm}/name`, value: name },
    ...below(readable.slice(0, 3), shown),
    folder(`${domain}/device/suspend/event-channel`, own),
    ...below(readable.slice(3), shown),
    ...below(
      controls.map((child) => `control/${child}`),
      own,
    ),
    ...below(writable, own),
    { path: `${vm}/uuid`, value: uuid },
    { path: `${vm}/name`, value: name },
    { path: `${domain}/control/platform-feature-multiprocessor-suspend`, value: '1' },
    { path: `${domain}/control/platform-feature-xs_reset_watches`, value: '1' },
    { path: `${libxl}/type`, value: 'pv' },
  ];
}

/** The second transaction: what the domain is, once it has memory. It is introduced after that. */
export function buildNodes(options: DomainNodesOptions): StoreNode[] {
  const { domid, uuid, target } = options;
  const { domain, vm } = domainPaths(domid, uuid);
  const nodes = {
    'memory/static-max': memoryKib,
    'memory/target': memoryKib,
    'memory/videoram': '0',
    domid: String(domid),
    'store/port': store.port,
    'store/ring-ref': store.ringRef,
    'cpu/0/availability': 'online',
  };
  return [
    ...Object.entries(nodes).map(([name, value]) => ({ path: `${domain}/${name}`, value })),
    { path: `${vm}/image/ostype`, value: 'linux' },
    ...(target === undefined ? [] : [{ path: `${domain}/target`, value: String(target) }]),
  ];
}
