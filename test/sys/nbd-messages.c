/* Prints netlink messages for nbd as a C program builds them over linux-libc-dev's headers. */
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/nbd.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static unsigned char message[4096];

static struct nlmsghdr *header(void) { return (struct nlmsghdr *)message; }

static void begin(int family, int command, int sequence)
{
    struct genlmsghdr *generic = NLMSG_DATA(header());
    memset(message, 0, sizeof message);
    header()->nlmsg_len = NLMSG_LENGTH(GENL_HDRLEN);
    header()->nlmsg_type = family;
    header()->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
    header()->nlmsg_seq = sequence;
    generic->cmd = command;
    generic->version = NBD_GENL_VERSION;
}

static struct nlattr *add(int type, const void *data, size_t length)
{
    struct nlattr *attribute = (struct nlattr *)(message + NLMSG_ALIGN(header()->nlmsg_len));
    attribute->nla_type = type;
    attribute->nla_len = NLA_HDRLEN + length;
    if (length > 0) memcpy((char *)attribute + NLA_HDRLEN, data, length);
    header()->nlmsg_len = NLMSG_ALIGN(header()->nlmsg_len) + NLA_ALIGN(attribute->nla_len);
    return attribute;
}

static void add32(int type, uint32_t value) { add(type, &value, sizeof value); }
static void add64(int type, uint64_t value) { add(type, &value, sizeof value); }
static void end(struct nlattr *nest)
{
    nest->nla_len = message + header()->nlmsg_len - (unsigned char *)nest;
}

static void add_socket(int fd)
{
    struct nlattr *sockets = add(NBD_ATTR_SOCKETS | NLA_F_NESTED, NULL, 0);
    struct nlattr *item = add(NBD_SOCK_ITEM | NLA_F_NESTED, NULL, 0);
    add32(NBD_SOCK_FD, fd);
    end(item);
    end(sockets);
}

static void print(const char *name)
{
    printf("%s ", name);
    for (unsigned i = 0; i < header()->nlmsg_len; i++) printf("%02x", message[i]);
    printf("\n");
}

int main(void)
{
    static const char name[] = "vbdkit:vbd-7-51712";
    printf("family %s\n", NBD_GENL_FAMILY_NAME);
    begin(31, NBD_CMD_CONNECT, 5);
    add64(NBD_ATTR_SIZE_BYTES, 3ull << 40);
    add64(NBD_ATTR_BLOCK_SIZE_BYTES, 512);
    add64(NBD_ATTR_TIMEOUT, 0);
    add64(NBD_ATTR_DEAD_CONN_TIMEOUT, 3600);
    add64(NBD_ATTR_SERVER_FLAGS, NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                                     NBD_FLAG_SEND_TRIM | NBD_FLAG_CAN_MULTI_CONN);
    add_socket(17);
    add(NBD_ATTR_BACKEND_IDENTIFIER, name, sizeof name);
    print("connect");
    begin(31, NBD_CMD_RECONFIGURE, 6);
    add32(NBD_ATTR_INDEX, 3);
    add(NBD_ATTR_BACKEND_IDENTIFIER, name, sizeof name);
    add64(NBD_ATTR_SIZE_BYTES, 1 << 20);
    add64(NBD_ATTR_CLIENT_FLAGS, NBD_CFLAG_DISCONNECT_ON_CLOSE);
    add_socket(18);
    print("reconfigure");
    begin(31, NBD_CMD_DISCONNECT, 7);
    add32(NBD_ATTR_INDEX, 3);
    print("disconnect");
    begin(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 8);
    add(CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof NBD_GENL_FAMILY_NAME);
    print("family");
    return 0;
}
