/* Prints sizes and offsets of the block ring as Debian's libxen-dev declares it. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define xen_mb() __sync_synchronize()
#define xen_rmb() __sync_synchronize()
#define xen_wmb() __sync_synchronize()
#ifdef NARROW
/* x86_32 aligns 64 bits to four; nothing else of these structs changes by it. */
#pragma pack(push, 4)
#endif
#include <xen/xen.h>
#include <xen/io/ring.h>
#include <xen/io/blkif.h>

#define AT(name, type, field) printf("%s %zu\n", name, offsetof(type, field))

int main(void)
{
    printf("entryBytes %zu\n", sizeof(union blkif_sring_entry));
    printf("entries1 %zu\n", (size_t)__CONST_RING_SIZE(blkif, 4096));
    printf("entries16 %zu\n", (size_t)__CONST_RING_SIZE(blkif, 65536));
    AT("ring.entries", struct blkif_sring, ring);
    AT("ring.requestsProduced", struct blkif_sring, req_prod);
    AT("ring.requestEvent", struct blkif_sring, req_event);
    AT("ring.responsesProduced", struct blkif_sring, rsp_prod);
    AT("ring.responseEvent", struct blkif_sring, rsp_event);
    AT("operation", blkif_request_t, operation);
    AT("segments", blkif_request_t, nr_segments);
    AT("id", blkif_request_t, id);
    AT("sector", blkif_request_t, sector_number);
    AT("segment", blkif_request_t, seg);
    printf("segmentBytes %zu\n", sizeof(struct blkif_request_segment));
    AT("segment.first", struct blkif_request_segment, first_sect);
    AT("segment.last", struct blkif_request_segment, last_sect);
    AT("discard.flags", blkif_request_discard_t, flag);
    AT("discard.id", blkif_request_discard_t, id);
    AT("discard.sector", blkif_request_discard_t, sector_number);
    AT("discardSectors", blkif_request_discard_t, nr_sectors);
    AT("indirect.inner", blkif_request_indirect_t, indirect_op);
    AT("indirectSegments", blkif_request_indirect_t, nr_segments);
    AT("indirect.id", blkif_request_indirect_t, id);
    AT("indirect.sector", blkif_request_indirect_t, sector_number);
    AT("indirectPages", blkif_request_indirect_t, indirect_grefs);
    printf("responseBytes %zu\n", sizeof(blkif_response_t));
    AT("response.operation", blkif_response_t, operation);
    AT("response.status", blkif_response_t, status);
    printf("most %d %d\n", BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST);
    printf("operations %d %d %d %d %d %d\n", BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER,
           BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT);
    printf("statuses %d %d %d\n", BLKIF_RSP_OKAY, BLKIF_RSP_ERROR, BLKIF_RSP_EOPNOTSUPP);
    return 0;
}
