/* Text of about the weight of a real answer's: a token is one of 4,096 words of 4 to 6 letters, drawn
 * by the stream's seed and the token's position, so that both ends know which it must be. */
#ifndef WORDS_H
#define WORDS_H

#include <stdint.h>
#include <stdio.h>

static int word_number(long seed, int position) {
    uint64_t x = (uint64_t)seed * 0x9E3779B97F4A7C15ULL + (uint64_t)position * 0xBF58476D1CE4E5B9ULL;
    x = (x ^ x >> 31) * 0x94D049BB133111EBULL;
    return x >> 40 & 4095;
}

static int write_word(char *to, size_t room, int number) {
    static const char FIRST[] = "bcdfghklmnprstvw", VOWELS[] = "aeio", LAST[] = "nrsl";
    int a = number & 63, b = number >> 6;
    return snprintf(to, room, " %c%c%c%c%.*s", FIRST[a & 15], VOWELS[a >> 4], FIRST[b & 15], VOWELS[b >> 4],
        (a ^ b) & 1, &LAST[(a + b) & 3]);
}

#endif
