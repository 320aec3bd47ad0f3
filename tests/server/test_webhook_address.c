/* Which addresses a webhook may reach. SPDX-License-Identifier: Apache-2.0 */
#include "server/webhook_address.h"

#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

static bool is_public(const char *text)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return rf_webhook_address_is_public((const struct sockaddr *)&v4);
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return rf_webhook_address_is_public((const struct sockaddr *)&v6);
}

static void addresses_of_neighbours_are_refused(void **state)
{
    static const char *const closed[] = {
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.168.1.1", "198.18.0.1",
        "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "febf::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "100::1", "2001:db8::1",
        "2001::1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1",
        "64:ff9b:1::1", "2002:7f00:1::1", "2002:c0a8:101::1",
    };
    for (size_t i = 0; i < RF_COUNT_OF(closed); i++) {
        if (is_public(closed[i]))
            print_error("%s passed\n", closed[i]);
        assert_false(is_public(closed[i]));
    }
}

static void addresses_of_the_internet_pass(void **state)
{
    static const char *const open[] = {
        "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1",
        "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255",
        "198.20.0.0", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "2001:4860:4860::8888", "::ffff:1.1.1.1",
        "64:ff9b::101:101", "2002:101:101::1",
    };
    for (size_t i = 0; i < RF_COUNT_OF(open); i++) {
        if (!is_public(open[i]))
            print_error("%s was refused\n", open[i]);
        assert_true(is_public(open[i]));
    }
}

static void other_families_are_refused(void **state)
{
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    assert_false(rf_webhook_address_is_public((const struct sockaddr *)&local));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_of_neighbours_are_refused),
        cmocka_unit_test(addresses_of_the_internet_pass),
        cmocka_unit_test(other_families_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
