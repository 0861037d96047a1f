// AES-256-GCM under one key, record by record: by OpenSSL or, on processors that seal four blocks
// with one instruction (AVX-512, VAES and VPCLMULQDQ), by Intel's multi-buffer library, which
// OpenSSL knows to do from 3.1 on only. The bytes are the same.
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#include "net.h"

#ifdef WITH_IPSEC_MB
#include <intel-ipsec-mb.h>

enum { ALIGNMENT = 64 };

struct wide {
    struct gcm_key_data key;
    struct gcm_context_data state;
};
static IMB_MGR *manager; // only its functions are called, which keep nothing
static atomic_int users;  // keys in use: threads may go on where a process ends without a goodbye
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void find(void) {
    const uint64_t needed = IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ | IMB_FEATURE_AVX512_SKX;
    if (setting("VITALSTREAM_NET_WIDE", 1, 0, 1) == 0) return;
    IMB_MGR *found = alloc_mb_mgr(0);
    if (found == NULL) return;
    init_mb_mgr_auto(found, NULL);
    if (imb_get_errno(found) == 0 && (found->features & needed) == needed)
        manager = found;
    else
        free_mb_mgr(found);
}

const char *gcm_engine(void) {
    pthread_once(&once, find);
    return manager != NULL ? "multi-buffer library" : "OpenSSL";
}

void gcm_end(void) {
    if (manager == NULL || atomic_load(&users) > 0) return;
    free_mb_mgr(manager);
    manager = NULL;
}

static bool wide_key(struct gcm *g, const uint8_t key[KEY_BYTES]) {
    if (g->wide == NULL) {
        size_t bytes = (sizeof(struct wide) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        g->wide = aligned_alloc(ALIGNMENT, bytes);
        if (g->wide != NULL) atomic_fetch_add(&users, 1);
    }
    if (g->wide != NULL) IMB_AES256_GCM_PRE(manager, key, &g->wide->key);
    return g->wide != NULL;
}

static void wide_begin(struct gcm *g, const uint8_t nonce[12], const uint8_t *said, size_t n) {
    IMB_AES256_GCM_INIT(manager, &g->wide->key, &g->wide->state, nonce, said, n);
}

static void wide_next(struct gcm *g, uint8_t *to, const uint8_t *from, size_t n) {
    if (g->opens)
        IMB_AES256_GCM_DEC_UPDATE(manager, &g->wide->key, &g->wide->state, to, from, n);
    else
        IMB_AES256_GCM_ENC_UPDATE(manager, &g->wide->key, &g->wide->state, to, from, n);
}

static void wide_tag(struct gcm *g, uint8_t *tag, size_t n) {
    if (g->opens)
        IMB_AES256_GCM_DEC_FINALIZE(manager, &g->wide->key, &g->wide->state, tag, n);
    else
        IMB_AES256_GCM_ENC_FINALIZE(manager, &g->wide->key, &g->wide->state, tag, n);
}

static void wide_close(struct gcm *g) {
    if (g->wide == NULL) return;
    OPENSSL_cleanse(g->wide, sizeof *g->wide);
    free(g->wide);
    g->wide = NULL;
    atomic_fetch_sub(&users, 1);
}
#define IS_WIDE(g) ((g)->wide != NULL)
static bool wide_here(void) {
    pthread_once(&once, find);
    return manager != NULL;
}
#else
const char *gcm_engine(void) { return "OpenSSL"; }
void gcm_end(void) {}
#define IS_WIDE(g) false
#define wide_here() false
#define wide_key(g, key) false
#define wide_begin(g, nonce, said, n) ((void)0)
#define wide_next(g, to, from, n) ((void)0)
#define wide_tag(g, tag, n) ((void)0)
#define wide_close(g) ((void)0)
#endif

bool gcm_key(struct gcm *g, const uint8_t key[KEY_BYTES]) {
    if (IS_WIDE(g) || (g->cipher == NULL && wide_here())) return wide_key(g, key);
    if (g->cipher == NULL) g->cipher = EVP_CIPHER_CTX_new();
    return g->cipher != NULL &&
           EVP_CipherInit_ex(g->cipher, EVP_aes_256_gcm(), NULL, key, NULL, !g->opens) == 1;
}

void gcm_close(struct gcm *g) {
    EVP_CIPHER_CTX_free(g->cipher);
    g->cipher = NULL;
    wide_close(g);
}

// A nonce once under a key, and what is said in the clear but proved by the tag.
bool gcm_begin(struct gcm *g, const uint8_t nonce[12], const uint8_t *said, size_t n) {
    int wrote;
    if (IS_WIDE(g)) {
        wide_begin(g, nonce, said, n);
        return true;
    }
    return EVP_CipherInit_ex(g->cipher, NULL, NULL, NULL, nonce, -1) == 1 &&
           EVP_CipherUpdate(g->cipher, NULL, &wrote, said, (int)n) == 1;
}

// Seals or opens what comes next; in place, too.
bool gcm_next(struct gcm *g, uint8_t *to, const uint8_t *from, size_t n) {
    int wrote;
    if (n == 0) return true;
    if (IS_WIDE(g)) {
        wide_next(g, to, from, n);
        return true;
    }
    return EVP_CipherUpdate(g->cipher, to, &wrote, from, (int)n) == 1;
}

// Ends a sealing: writes the tag's first n bytes.
bool gcm_seal(struct gcm *g, uint8_t *tag, size_t n) {
    uint8_t nothing[16];
    int wrote;
    if (IS_WIDE(g)) {
        wide_tag(g, tag, n);
        return true;
    }
    return EVP_EncryptFinal_ex(g->cipher, nothing, &wrote) == 1 &&
           EVP_CIPHER_CTX_ctrl(g->cipher, EVP_CTRL_AEAD_GET_TAG, (int)n, tag) == 1;
}

// Ends an opening: whether the tag's first n bytes are right. Without that nothing may be looked at.
bool gcm_proves(struct gcm *g, const uint8_t *tag, size_t n) {
    uint8_t nothing[16], copy[TAG_BYTES];
    int wrote;
    if (IS_WIDE(g)) {
        wide_tag(g, copy, n);
        return same_bytes(copy, tag, n);
    }
    memcpy(copy, tag, n);
    return EVP_CIPHER_CTX_ctrl(g->cipher, EVP_CTRL_AEAD_SET_TAG, (int)n, copy) == 1 &&
           EVP_DecryptFinal_ex(g->cipher, nothing, &wrote) == 1;
}
