// Keys: the shared secret from its file, one key schedule for each link, records under AES-256-GCM.
//
// A link's keys come from an X25519 agreement of two fresh key pairs and the shared secret, bound
// to all that was said before (HKDF-SHA256, RFC 5869). So traffic recorded today stays closed when
// the shared secret leaks tomorrow, and nobody without the secret can answer. Both directions of
// each link have keys of their own; nonces count records.
#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "net.h"

static pthread_mutex_t key_lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t shared_key[KEY_BYTES];
static bool key_known;

static bool hmac(const uint8_t *key, size_t key_bytes, const void *data, size_t n,
                 uint8_t out[32]) {
    return HMAC(EVP_sha256(), key, (int)key_bytes, data, n, out, NULL) != NULL;
}

// One block of HKDF-Expand, which is all that a 32-byte key needs.
static bool expand(const uint8_t prk[32], const char *label, uint8_t out[32]) {
    uint8_t info[64];
    size_t n = strlen(label);
    memcpy(info, label, n);
    info[n] = 1;
    return hmac(prk, 32, info, n + 1, out);
}

ncclResult_t key_load(const char *path) {
    if (path == NULL || *path == 0) {
        WARN("no key: VITALSTREAM_NET_KEY_FILE names no file, so nothing is encrypted here and "
             "NCCL goes on without this plug-in");
        return ncclSystemError;
    }
    FILE *file = fopen(path, "re");
    struct stat about;
    if (file == NULL || fstat(fileno(file), &about) != 0) {
        WARN("key file %s: %s", path, strerror(errno));
        if (file) fclose(file);
        return ncclSystemError;
    }
    uint8_t text[1024];
    size_t n = fread(text, 1, sizeof text, file);
    bool whole = !ferror(file);
    fclose(file);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r' || text[n - 1] == ' ')) n--;
    ncclResult_t result = ncclSystemError;
    static const char salt[] = "vitalstream net key 1";
    if (!whole)
        WARN("key file %s cannot be read", path);
    else if (about.st_mode & 077)
        WARN("key file %s is open to others (mode %o): chmod 600 it", path, about.st_mode & 0777u);
    else if (n < 32)
        WARN("key file %s holds %zu bytes, fewer than 32: make one by openssl rand -hex 32", path,
             n);
    else {
        pthread_mutex_lock(&key_lock);
        key_known = hmac((const uint8_t *)salt, sizeof salt - 1, text, n, shared_key);
        if (key_known) result = ncclSuccess;
        pthread_mutex_unlock(&key_lock);
    }
    OPENSSL_cleanse(text, sizeof text);
    return result;
}

bool same_bytes(const uint8_t *a, const uint8_t *b, size_t n) {
    return CRYPTO_memcmp(a, b, n) == 0;
}

bool ephemeral_make(struct ephemeral *e) {
    size_t n = sizeof e->public_key;
    e->pair = EVP_PKEY_Q_keygen(NULL, NULL, "X25519");
    return e->pair != NULL && EVP_PKEY_get_raw_public_key(e->pair, e->public_key, &n) == 1;
}

void ephemeral_free(struct ephemeral *e) {
    EVP_PKEY_free(e->pair);
    e->pair = NULL;
}

static bool agree(EVP_PKEY *mine, const uint8_t peer[32], uint8_t secret[32]) {
    EVP_PKEY *theirs = EVP_PKEY_new_raw_public_key(EVP_PKEY_X25519, NULL, peer, 32);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new(mine, NULL);
    size_t n = 32;
    // OpenSSL refuses a peer's key of low order, whose secret would be all zero.
    bool good = theirs && context && EVP_PKEY_derive_init(context) == 1 &&
                EVP_PKEY_derive_set_peer(context, theirs) == 1 &&
                EVP_PKEY_derive(context, secret, &n) == 1 && n == 32;
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(theirs);
    return good;
}

bool schedule_derive(struct schedule *s, struct ephemeral *mine, const uint8_t peer[32],
                     const uint8_t *transcript, size_t n) {
    uint8_t salt[32], input[64], prk[32], mac_key[2][32];
    bool good = agree(mine->pair, peer, input);
    pthread_mutex_lock(&key_lock);
    good = good && key_known;
    memcpy(input + 32, shared_key, KEY_BYTES);
    pthread_mutex_unlock(&key_lock);
    good = good && SHA256(transcript, n, salt) && hmac(salt, 32, input, 64, prk) &&
           expand(prk, "listener confirms", mac_key[0]) &&
           expand(prk, "connector confirms", mac_key[1]) &&
           hmac(mac_key[0], 32, salt, 32, s->confirm_listener) &&
           hmac(mac_key[1], 32, salt, 32, s->confirm_connector) &&
           expand(prk, "records to listener", s->to_listener) &&
           expand(prk, "records to connector", s->to_connector);
    OPENSSL_cleanse(input, sizeof input);
    OPENSSL_cleanse(prk, sizeof prk);
    OPENSSL_cleanse(mac_key, sizeof mac_key);
    return good;
}

bool sealer_open(struct sealer *s, const uint8_t key[KEY_BYTES], bool opens) {
    *s = (struct sealer){.gcm = {.opens = opens}};
    memcpy(s->key, key, KEY_BYTES);
    return gcm_key(&s->gcm, s->key);
}

void sealer_close(struct sealer *s) {
    gcm_close(&s->gcm);
    OPENSSL_cleanse(s->key, sizeof s->key);
}

// Nonces are a record's number, which never repeats under a key, and which of the record's two
// seals it is. Both sides count, so a record that is repeated, left out or moved does not open.
// Both seals prove the record's length.
enum seal { HEAD = 1, BODY = 2 };

static bool begin(struct sealer *s, enum seal which, const uint8_t length[LENGTH_BYTES]) {
    uint8_t nonce[12] = {(uint8_t)which};
    if (which == HEAD && s->records > 0 && s->records % REKEY_RECORDS == 0) {
        uint8_t next[KEY_BYTES];
        if (!expand(s->key, "next key", next)) return false;
        memcpy(s->key, next, KEY_BYTES);
        OPENSSL_cleanse(next, sizeof next);
        if (!gcm_key(&s->gcm, s->key)) return false;
    }
    for (int i = 0; i < 8; i++) nonce[4 + i] = (uint8_t)(s->records >> (56 - 8 * i));
    s->records += which == BODY;
    return gcm_begin(&s->gcm, nonce, length, LENGTH_BYTES);
}

// Writes head (length, and a tag of its own over it), sealed frame and body, tag; returns the bytes
// written, 0 where the cipher failed.
size_t record_seal(struct sealer *s, uint8_t *record, const uint8_t frame[FRAME_BYTES],
                   const uint8_t *body, size_t n) {
    uint8_t *at = record + HEAD_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++) record[i] = (uint8_t)((FRAME_BYTES + n) >> (8 * i));
    bool good = begin(s, HEAD, record) && gcm_seal(&s->gcm, record + LENGTH_BYTES, CHECK_BYTES) &&
                begin(s, BODY, record) && gcm_next(&s->gcm, at, frame, FRAME_BYTES) &&
                gcm_next(&s->gcm, at + FRAME_BYTES, body, n) &&
                gcm_seal(&s->gcm, at + FRAME_BYTES + n, TAG_BYTES);
    return good ? HEAD_BYTES + FRAME_BYTES + n + TAG_BYTES : 0;
}

// The sealed bytes that follow the head, once it has proved true; 0 where it has not. Without that,
// a changed length would be waited for.
size_t head_open(struct sealer *s, const uint8_t *record) {
    if (!begin(s, HEAD, record) || !gcm_proves(&s->gcm, record + LENGTH_BYTES, CHECK_BYTES))
        return 0;
    size_t sealed = 0;
    for (int i = 0; i < LENGTH_BYTES; i++) sealed |= (size_t)record[i] << (8 * i);
    return sealed >= FRAME_BYTES && sealed <= FRAME_BYTES + CHUNK_BYTES ? sealed : 0;
}

// Opens a record in place, after its head; what it held is only to be looked at where this returns
// true.
bool record_open(struct sealer *s, uint8_t *record, size_t sealed) {
    uint8_t *at = record + HEAD_BYTES;
    return begin(s, BODY, record) && gcm_next(&s->gcm, at, at, sealed) &&
           gcm_proves(&s->gcm, at + sealed, TAG_BYTES);
}
