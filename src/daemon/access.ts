/** Who may ask what by the control socket, beside root: users and groups that the configuration names. */
import type { Access } from '../tap/control-server.ts';
import type { Config } from './config.ts';

/** The rights that a configuration gives; root has all without being named. */
export function accessOf(
  config: Pick<Config, 'admin_uids' | 'admin_gids' | 'read_uids' | 'read_gids'>,
): Access {
  const { admin_uids: adminUids, admin_gids: adminGids } = config;
  const { read_uids: readUids, read_gids: readGids } = config;
  const isAmong = (uids: readonly number[], gids: readonly number[]) => {
    return (uid: number, its: readonly number[]): boolean =>
      uids.includes(uid) || its.some((gid) => gids.includes(gid));
  };
  const isAdmin = isAmong(adminUids, adminGids);
  const mayRead = isAmong(readUids, readGids);
  return {
    forOthers: [adminUids, adminGids, readUids, readGids].some((ids) => ids.length > 0),
    rightsOf(uid, gids) {
      if (isAdmin(uid, gids)) return 'admin';
      return mayRead(uid, gids) ? 'read' : 'none';
    },
  };
}
