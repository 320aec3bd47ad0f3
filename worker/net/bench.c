#include "worker/net/net.h"
enum rf_code rf_net_bench(const struct rf_net_options *o, struct rf_net_result *result, struct rf_err *err)
{
    (void)o, (void)result;
    return rf_fail(err, RF_ERR_INVALID, "not yet");
}
