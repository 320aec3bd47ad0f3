/* The multipart reader: a state machine over bytes; see multipart.h.
 * The delimiter is CR LF "--" boundary. A boundary holds no CR, so a partial match that breaks can only begin anew at the
 * byte that broke it: one counter replaces any search table. The first delimiter has no CR LF before it; the counter
 * simply starts at 2.
 * SPDX-License-Identifier: Apache-2.0 */
#include "server/multipart.h"

#include "schema/json.h"

#include "server/params.h"

#include <string.h>
#include <strings.h>

enum state { PREAMBLE, AFTER_DELIMITER, HEADERS, DATA, EPILOGUE, BROKEN, STATE_COUNT };

struct rf_multipart {
    struct rf_multipart_listener to;
    enum state state;
    char delimiter[4 + 70 + 1];
    size_t delimiter_n, matched;
    char tail[2];               /* the two bytes that follow a delimiter: CR LF or "--" */
    int tail_n;
    bool blanks_only;           /* linear white space may stand before that CR LF */
    char headers[RF_MULTIPART_MAX_HEADERS + 1];
    size_t headers_n;
    int n_parts;
};

/* Finds parameter `name` in a header value ("form-data; name=\"a\"; filename=b") and copies it, unquoted, to `to`.
 * False when it is absent or does not fit. */
static bool parameter(const char *value, const char *name, char *to, size_t room)
{
    const char *p = value + strcspn(value, ";");
    while (*p == ';') {
        p += 1 + strspn(p + 1, " \t");
        size_t name_n = strcspn(p, "=; \t");
        bool wanted = name_n == strlen(name) && strncasecmp(p, name, name_n) == 0;
        p += name_n;
        p += strspn(p, " \t");
        size_t n = 0;
        if (*p == '=') {
            p += 1 + strspn(p + 1, " \t");
            bool quoted = *p == '"';
            p += quoted;
            for (; *p && (quoted ? *p != '"' : strchr("; \t", *p) == NULL); p++) {
                /* Browsers escape a quote as %22 (decoded below), curl and Python as \"; a lone backslash is a path. */
                if (quoted && p[0] == '\\' && (p[1] == '"' || p[1] == '\\'))
                    p++;
                if (n + 1 >= room) {
                    if (wanted)
                        return false;
                    continue;
                }
                to[n++] = *p;
            }
            if (quoted && *p++ != '"')
                return false;
        }
        to[n] = '\0';
        if (wanted)
            return true;
        p += strcspn(p, ";");
    }
    return false;
}

enum rf_code rf_multipart_create(const char *content_type, const struct rf_multipart_listener *listener,
                                 struct rf_multipart **ret_multipart, struct rf_err *err)
{
    char boundary[70 + 1];
    if (content_type == NULL || strncasecmp(content_type, "multipart/form-data", 19) != 0 ||
        strchr("; \t", content_type[19]) == NULL)
        return rf_fail(err, RF_ERR_INVALID, "Content-Type must be multipart/form-data");
    if (!parameter(content_type, "boundary", boundary, sizeof boundary) || boundary[0] == '\0')
        return rf_fail(err, RF_ERR_INVALID, "Content-Type multipart/form-data needs a boundary of 1 to 70 characters");
    for (const char *p = boundary; *p; p++)
        if (*p < 0x20 || *p > 0x7e)
            return rf_fail(err, RF_ERR_INVALID, "the boundary of multipart/form-data must be printable ASCII");
    struct rf_multipart *m = rf_new(struct rf_multipart);
    m->to = *listener;
    memcpy(m->delimiter, "\r\n--", 4);
    memcpy(m->delimiter + 4, boundary, strlen(boundary) + 1);
    m->delimiter_n = strlen(m->delimiter);
    m->matched = 2;
    *ret_multipart = m;
    return RF_OK;
}

void rf_multipart_destroy(struct rf_multipart **multipart)
{
    free(*multipart);
    *multipart = NULL;
}

/* Reads one header line of a part into the two values that matter; all others are allowed and mean nothing to us. */
static enum rf_code read_header(char *line, char *disposition, char *content_type, size_t room, struct rf_err *err)
{
    char *colon = strchr(line, ':');
    if (colon == NULL || colon == line)
        return rf_fail(err, RF_ERR_INVALID, "multipart: a part has a broken header line");
    *colon = '\0';
    char *value = colon + 1 + strspn(colon + 1, " \t");
    char *to = strcasecmp(line, "Content-Disposition") == 0 ? disposition
               : strcasecmp(line, "Content-Type") == 0      ? content_type
                                                            : NULL;
    if (strcasecmp(line, "Content-Transfer-Encoding") == 0 && strcasecmp(value, "binary") != 0 &&
        strcasecmp(value, "8bit") != 0 && strcasecmp(value, "7bit") != 0)
        return rf_fail(err, RF_ERR_INVALID, "multipart: Content-Transfer-Encoding '%.20s' is not understood", value);
    if (to != NULL) {
        size_t n = strlen(value);
        if (n >= room)
            return rf_fail(err, RF_ERR_INVALID, "multipart: a part's %s is too long", line);
        memcpy(to, value, n + 1);
    }
    return RF_OK;
}

static enum rf_code start_part(struct rf_multipart *m, struct rf_err *err)
{
    char disposition[1024] = "", content_type[256] = "", name[512], filename[512];
    m->headers[m->headers_n] = '\0';
    if (strlen(m->headers) != m->headers_n)
        return rf_fail(err, RF_ERR_INVALID, "multipart: a part has a NUL in its headers");
    for (char *line = m->headers, *next; *line; line = next) {
        char *end = strstr(line, "\r\n");
        next = end ? end + 2 : line + strlen(line);
        if (end != NULL)
            *end = '\0';
        enum rf_code rc = *line ? read_header(line, disposition, content_type, sizeof content_type, err) : RF_OK;
        if (rc != RF_OK)
            return rc;
    }
    if (strncasecmp(disposition, "form-data", 9) != 0 || !parameter(disposition, "name", name, sizeof name) ||
        name[0] == '\0')
        return rf_fail(err, RF_ERR_INVALID, "multipart: part %d has no Content-Disposition: form-data with a name",
                       m->n_parts);
    bool has_file = parameter(disposition, "filename", filename, sizeof filename);
    if (!rf_percent_decode(name, false) || !rf_utf8_valid(name, strlen(name), NULL))
        return rf_fail(err, RF_ERR_INVALID, "multipart: the name of part %d is broken", m->n_parts);
    struct rf_multipart_part part = {
        .name = name,
        .filename = has_file ? filename : NULL,
        .content_type = content_type[0] ? content_type : NULL,
    };
    return m->to.begin(m->to.self, &part, err);
}

/* Data up to the next possible delimiter. Returns the number of bytes used; the delimiter's end changes the state. */
static enum rf_code feed_data(struct rf_multipart *m, const char *data, size_t n, size_t *ret_used, struct rf_err *err)
{
    bool tell = m->state == DATA;
    size_t i = 0;
    while (i < n) {
        if (m->matched > 0) {
            if (data[i] == m->delimiter[m->matched]) {
                i++;
                if (++m->matched < m->delimiter_n)
                    continue;
                m->matched = 0;
                m->tail_n = 0;
                m->blanks_only = false;
                m->state = AFTER_DELIMITER;
                *ret_used = i;
                return tell ? m->to.end(m->to.self, err) : RF_OK;
            }
            size_t lost = m->matched;
            m->matched = 0;
            enum rf_code rc = tell ? m->to.data(m->to.self, m->delimiter, lost, err) : RF_OK;
            if (rc != RF_OK)
                return rc;
        }
        const char *cr = memchr(data + i, '\r', n - i);
        size_t plain = cr ? (size_t)(cr - data) - i : n - i;
        enum rf_code rc = tell && plain > 0 ? m->to.data(m->to.self, data + i, plain, err) : RF_OK;
        if (rc != RF_OK)
            return rc;
        i += plain;
        if (cr != NULL) {
            m->matched = 1;
            i++;
        }
    }
    *ret_used = i;
    return RF_OK;
}

/* The bytes behind a delimiter: CR LF opens a part, "--" ends the form, blanks may stand before the CR LF. */
static enum rf_code feed_tail(struct rf_multipart *m, char c, struct rf_err *err)
{
    if (m->tail_n == 0 && (c == ' ' || c == '\t')) {
        m->blanks_only = true;
        return RF_OK;
    }
    m->tail[m->tail_n++] = c;
    if (m->tail_n < 2)
        return RF_OK;
    if (m->tail[0] == '-' && m->tail[1] == '-' && !m->blanks_only) {
        m->state = EPILOGUE;
        return RF_OK;
    }
    if (m->tail[0] != '\r' || m->tail[1] != '\n')
        return rf_fail(err, RF_ERR_INVALID, "multipart: neither a line end nor '--' follows a boundary");
    if (++m->n_parts > RF_MULTIPART_MAX_PARTS)
        return rf_fail(err, RF_ERR_INVALID, "multipart: more than %d parts", RF_MULTIPART_MAX_PARTS);
    m->state = HEADERS;
    m->headers_n = 0;
    return RF_OK;
}

static enum rf_code feed_header(struct rf_multipart *m, char c, struct rf_err *err)
{
    if (m->headers_n == RF_MULTIPART_MAX_HEADERS)
        return rf_fail(err, RF_ERR_INVALID, "multipart: the headers of part %d are longer than %d bytes", m->n_parts,
                       RF_MULTIPART_MAX_HEADERS);
    m->headers[m->headers_n++] = c;
    bool blank_line = (m->headers_n == 2 && memcmp(m->headers, "\r\n", 2) == 0) ||
                      (m->headers_n >= 4 && memcmp(m->headers + m->headers_n - 4, "\r\n\r\n", 4) == 0);
    if (!blank_line)
        return RF_OK;
    m->state = DATA;
    m->matched = 0;
    return start_part(m, err);
}

enum rf_code rf_multipart_feed(struct rf_multipart *m, const char *data, size_t n, struct rf_err *err)
{
    enum rf_code rc = RF_OK;
    for (size_t i = 0, used; i < n && rc == RF_OK; i += used) {
        used = 1;
        switch (m->state) {
        case PREAMBLE:
        case DATA:
            rc = feed_data(m, data + i, n - i, &used, err);
            break;
        case AFTER_DELIMITER:
            rc = feed_tail(m, data[i], err);
            break;
        case HEADERS:
            rc = feed_header(m, data[i], err);
            break;
        case EPILOGUE:
            return RF_OK;
        case BROKEN:
        case STATE_COUNT:
            return rf_fail(err, RF_ERR_INVALID, "multipart: the body is broken");
        }
    }
    if (rc != RF_OK)
        m->state = BROKEN;
    return rc;
}

enum rf_code rf_multipart_end(struct rf_multipart *m, struct rf_err *err)
{
    if (m->state == EPILOGUE)
        return RF_OK;
    return rf_fail(err, RF_ERR_INVALID, "multipart: the body ends before the closing boundary");
}
