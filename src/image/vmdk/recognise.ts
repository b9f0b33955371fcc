/** What a VMDK looks like from outside: loaded whenever a file's format is looked for. */

/** Whether a file looks like a VMDK, by its first bytes: hosted sparse, ESX's COWD, or a descriptor. */
export function looksLikeVmdk(head: Uint8Array): boolean {
  const magic = Buffer.from(head.subarray(0, 4)).toString('latin1');
  return magic === 'KDMV' || magic === 'COWD' || looksLikeDescriptor(head);
}

/** Whether the beginning of a file is that of a descriptor: comments, then a version, or its first comment. */
export function looksLikeDescriptor(head: Uint8Array): boolean {
  const text = Buffer.from(head.subarray(0, 4096)).toString('latin1');
  return (
    /^\s*#\s*disk\s+descriptor\s*file/i.test(text) ||
    /^(?:[ \t]*(?:#[^\r\n\0]*)?\r?\n)*[ \t]*version[ \t]*=[ \t]*[1-4]\s/i.test(text)
  );
}
