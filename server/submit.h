/* POST /v1/videos in both its forms, and remix: from bytes to a job on disk.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef RF_SERVER_SUBMIT_H
#define RF_SERVER_SUBMIT_H

#include "server/http.h"
#include "server/store.h"

#define RF_SUBMIT_MAX_BYTES (28LL << 20) /* a 20 MiB image as a data URL, and its request */

void rf_submit_begin(struct rf_call *c);
void rf_submit_handle(struct rf_call *c);
void rf_remix_handle(struct rf_call *c);

/* True in the moment between the first start of a server with local workers and the first of them saying what it can
 * render: until then there are no defaults to complete a request with, and a guess at them once made the small model
 * render 832x480. Bounded, so that a farm whose workers cannot start still takes jobs. */
bool rf_submit_is_early(const struct rf_app *app);

/* Completes a parsed request with the defaults of the model it names. `*ret_plan` may be NULL.
 *   ret_param       RF_PARAM_SIZE bytes: the field an error is about
 *   RF_ERR_INVALID  a rule is broken, or the farm knows models and this is none of them
 *   RF_ERR_IO       too early: see rf_submit_is_early(); a second later it will do */
enum rf_code rf_submit_resolve(struct rf_app *app, struct rf_request *request, struct rf_plan *ret_plan, char *ret_param,
                               struct rf_err *err);

/* Writes the image that came inside a request to the job's file `input`. Syncs: not on an event loop.
 *   RF_ERR_INVALID  no PNG, JPEG or WebP */
enum rf_code rf_submit_store_image(struct rf_app *app, const struct rf_request *request, const char *job_id,
                                   struct rf_file *ret_file, char *ret_param, struct rf_err *err);

/* A user's token submits in its own name and not above the others: sets r->user, or refuses.
 *   RF_ERR_INVALID  another user's name, or a priority above 0; ret_param names the field. Answer it with 403 */
enum rf_code rf_submit_claim(struct rf_call *c, struct rf_request *request, char *ret_param, struct rf_err *err);

#endif
