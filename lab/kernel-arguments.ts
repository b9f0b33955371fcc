/** What every Linux of the lab is told on its command line: to leave out what costs an emulated machine most. */

/** Self-tests, hardening against other programs on the same processor, and zeroing of fresh memory. */
export const lessWork = [
  'cryptomgr.notests rodata=off mitigations=off init_on_alloc=0 randomize_kstack_offset=off',
  'hardened_usercopy=off apparmor=0 audit=0',
].join(' ');
