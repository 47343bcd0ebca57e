/* Reference program: every layer of the network in plain loops, in the order of the table in the header.

   cc -O2 -std=c99 NETWORK.c -lm -o NETWORK

   ./NETWORK golden NETWORK.golden.bin [NETWORK.bin]
       The golden file holds an input and the output of every layer. Prints the largest difference of each layer;
       exit status 0 if all are within MODEL_TOLERANCE, 1 if not, 2 if a file cannot be used.
   ./NETWORK logits IMAGES LOGITS [NETWORK.bin]
       IMAGES: float32 (N, C, H, W), preprocessed. Writes LOGITS: float32 (N, classes).

   Products are summed in double. Weights that are stored as int8 become float32, weight = scale * int8, one filter at a
   time, and all arithmetic is that of the float32 network. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "NETWORK.h"

static float image[MODEL_INPUT];
static float buffers[2][MODEL_LARGEST];
static float expected[MODEL_LARGEST];
static float dequantized[MODEL_LARGEST_FILTER];
static unsigned char *weights; /* the contents of the weights file; NULL if the header holds the weights */

static void fail(const char *what, const char *path) {
    fprintf(stderr, "%s: %s\n", path, what);
    exit(2);
}

static const void *data(const struct tensor *tensor) {
    return tensor->data ? tensor->data : weights + tensor->offset;
}

static const float *floats(const struct tensor *tensor) { return data(tensor); }

/* The weights of one filter, `count` of them. */
static const float *filter(const struct layer *l, size_t number, size_t count) {
    if (l->weight->type == FLOAT32)
        return floats(l->weight) + number * count;
    const signed char *stored = (const signed char *)data(l->weight) + number * count;
    float scale = floats(l->scales)[number];
    for (size_t i = 0; i < count; i++)
        dequantized[i] = scale * (float)stored[i];
    return dequantized;
}

static double bias(const struct layer *l, size_t number) { return l->bias ? (double)floats(l->bias)[number] : 0.0; }

static size_t size(const int shape[3]) { return (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2]; }

/* One output: `maps` are the `channels` input maps that the filter w sees. Pixels outside the image are 0, so the loops
   leave them out. */
static double window(const struct layer *l, const float *maps, int channels, const float *w, int row, int column) {
    int height = l->in[1], width = l->in[2], kernel = l->kernel;
    int top = row * l->stride - l->pad_before, left = column * l->stride - l->pad_before;
    int first_i = top < 0 ? -top : 0, end_i = top + kernel > height ? height - top : kernel;
    int first_j = left < 0 ? -left : 0, end_j = left + kernel > width ? width - left : kernel;
    double sum = 0.0;
    for (int c = 0; c < channels; c++)
        for (int i = first_i; i < end_i; i++)
            for (int j = first_j; j < end_j; j++)
                sum += (double)maps[(c * height + top + i) * width + left + j] *
                       (double)w[(c * kernel + i) * kernel + j];
    return sum;
}

static void convolution(const struct layer *l, const float *x, float *y) {
    int channels = l->in[0] / l->groups, filters = l->out[0] / l->groups;
    size_t count = (size_t)(channels * l->kernel * l->kernel);
    for (int o = 0; o < l->out[0]; o++) {
        const float *w = filter(l, (size_t)o, count);
        const float *maps = x + (size_t)(o / filters * channels) * (size_t)(l->in[1] * l->in[2]);
        for (int row = 0; row < l->out[1]; row++)
            for (int column = 0; column < l->out[2]; column++)
                *y++ = (float)(window(l, maps, channels, w, row, column) + bias(l, (size_t)o));
    }
}

/* Filters and biases of their own for each pixel: weight (pixels, filters, channels * kernel * kernel). */
static void locally_connected(const struct layer *l, const float *x, float *y) {
    int filters = l->out[0], pixels = l->out[1] * l->out[2];
    size_t count = (size_t)(l->in[0] * l->kernel * l->kernel);
    for (int pixel = 0; pixel < pixels; pixel++)
        for (int o = 0; o < filters; o++) {
            size_t number = (size_t)(pixel * filters + o);
            const float *w = filter(l, number, count);
            double sum = window(l, x, l->in[0], w, pixel / l->out[2], pixel % l->out[2]);
            y[o * pixels + pixel] = (float)(sum + bias(l, number));
        }
}

static void linear(const struct layer *l, const float *x, float *y) {
    size_t count = size(l->in);
    for (size_t o = 0; o < size(l->out); o++) {
        const float *w = filter(l, o, count);
        double sum = bias(l, o);
        for (size_t i = 0; i < count; i++)
            sum += (double)x[i] * (double)w[i];
        y[o] = (float)sum;
    }
}

static double square(float x) { return (double)x * (double)x; }

static float normalized(const struct layer *l, float x, double squares) {
    return (float)((double)x * pow(l->k + l->alpha / l->alpha_divisor * squares, -l->beta));
}

/* The sum is over `kernel` neighbouring channels: kernel / 2 below this one, (kernel - 1) / 2 above it. It does not
   cross the border of a group. */
static void local_response_norm(const struct layer *l, const float *x, float *y) {
    int group = l->in[0] / l->groups, pixels = l->in[1] * l->in[2];
    for (int c = 0; c < l->in[0]; c++)
        for (int pixel = 0; pixel < pixels; pixel++) {
            int first = c - l->kernel / 2, last = c + (l->kernel - 1) / 2, start = c / group * group;
            double squares = 0.0;
            for (int other = first; other <= last; other++)
                if (other >= start && other < start + group)
                    squares += square(x[other * pixels + pixel]);
            y[c * pixels + pixel] = normalized(l, x[c * pixels + pixel], squares);
        }
}

/* The sum is over kernel x kernel pixels of the same channel. */
static void within_channel_norm(const struct layer *l, const float *x, float *y) {
    int height = l->in[1], width = l->in[2];
    for (int c = 0; c < l->in[0]; c++, x += height * width)
        for (int row = 0; row < height; row++)
            for (int column = 0; column < width; column++) {
                double squares = 0.0;
                for (int r = row - l->pad_before; r < row - l->pad_before + l->kernel; r++)
                    for (int s = column - l->pad_before; s < column - l->pad_before + l->kernel; s++)
                        if (r >= 0 && r < height && s >= 0 && s < width)
                            squares += square(x[r * width + s]);
                *y++ = normalized(l, x[row * width + column], squares);
            }
}

static void batch_norm(const struct layer *l, const float *x, float *y) {
    int pixels = l->in[1] * l->in[2];
    for (int c = 0; c < l->in[0]; c++) {
        double scale = (double)floats(l->weight)[c] / sqrt((double)floats(l->variance)[c] + l->eps);
        for (int pixel = 0; pixel < pixels; pixel++)
            *y++ = (float)(((double)*x++ - (double)floats(l->mean)[c]) * scale + bias(l, (size_t)c));
    }
}

/* The last windows may reach over the edge: only pixels of the image count, also in an average. */
static void pool(const struct layer *l, const float *x, float *y) {
    int height = l->in[1], width = l->in[2];
    for (int c = 0; c < l->in[0]; c++, x += height * width)
        for (int row = 0; row < l->out[1]; row++)
            for (int column = 0; column < l->out[2]; column++) {
                int top = row * l->stride, left = column * l->stride, count = 0;
                float largest = x[top * width + left];
                double sum = 0.0;
                for (int r = top; r < top + l->kernel && r < height; r++)
                    for (int s = left; s < left + l->kernel && s < width; s++, count++) {
                        sum += (double)x[r * width + s];
                        if (x[r * width + s] > largest)
                            largest = x[r * width + s];
                    }
                *y++ = l->kind == MAX_POOL ? largest : (float)(sum / count);
            }
}

/* Output row i is the mean of the input rows floor(i H / H') ... ceil((i + 1) H / H') - 1; columns likewise. */
static void adaptive_average_pool(const struct layer *l, const float *x, float *y) {
    int height = l->in[1], width = l->in[2], rows = l->out[1], columns = l->out[2];
    for (int c = 0; c < l->in[0]; c++, x += height * width)
        for (int row = 0; row < rows; row++)
            for (int column = 0; column < columns; column++) {
                int top = row * height / rows, bottom = ((row + 1) * height + rows - 1) / rows;
                int left = column * width / columns, right = ((column + 1) * width + columns - 1) / columns;
                double sum = 0.0;
                for (int r = top; r < bottom; r++)
                    for (int s = left; s < right; s++)
                        sum += (double)x[r * width + s];
                *y++ = (float)(sum / ((bottom - top) * (right - left)));
            }
}

static float element(const struct layer *l, float x) {
    switch (l->kind) {
    case RELU:
        return x > 0.0f ? x : 0.0f;
    case TANH:
        return (float)tanh((double)x);
    case SIGMOID:
        return (float)(1.0 / (1.0 + exp(-(double)x)));
    default:
        return (float)(l->factor * (double)x); /* SCALE: dropout at test time */
    }
}

static void run_layer(const struct layer *l, const float *x, float *y) {
    switch (l->kind) {
    case CONVOLUTION:
        convolution(l, x, y);
        break;
    case LOCALLY_CONNECTED:
        locally_connected(l, x, y);
        break;
    case LINEAR:
        linear(l, x, y);
        break;
    case LOCAL_RESPONSE_NORM:
        local_response_norm(l, x, y);
        break;
    case WITHIN_CHANNEL_NORM:
        within_channel_norm(l, x, y);
        break;
    case BATCH_NORM:
        batch_norm(l, x, y);
        break;
    case MAX_POOL:
    case AVERAGE_POOL:
        pool(l, x, y);
        break;
    case ADAPTIVE_AVERAGE_POOL:
        adaptive_average_pool(l, x, y);
        break;
    default:
        for (size_t i = 0; i < size(l->out); i++)
            y[i] = element(l, x[i]);
    }
}

/* Compares a layer's output with the golden file's. Returns whether it is within the tolerance. */
static int compare(const struct layer *l, const float *y) {
    double difference = 0.0, largest = 0.0;
    for (size_t i = 0; i < size(l->out); i++) {
        double distance = fabs((double)y[i] - (double)expected[i]);
        if (!(distance <= difference))
            difference = distance; /* also if it is not a number */
        if (fabs((double)expected[i]) > largest)
            largest = fabs((double)expected[i]);
    }
    int same = difference <= MODEL_TOLERANCE * largest;
    printf("%-24s %5d x %3d x %3d   largest %-10.4g difference %-10.3g %s\n", l->name, l->out[0], l->out[1], l->out[2],
           largest, difference, same ? "ok" : "DIFFERS");
    return same;
}

static const float *forward(FILE *golden, const char *path, int *same) {
    const float *x = image;
    for (int i = 0; i < MODEL_LAYERS; i++) {
        float *y = buffers[i % 2];
        run_layer(&layers[i], x, y);
        if (golden) {
            if (fread(expected, sizeof(float), size(layers[i].out), golden) != size(layers[i].out))
                fail("the file ends too early for this network", path);
            *same &= compare(&layers[i], y);
        }
        x = y;
    }
    return x;
}

static FILE *open_file(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (!file)
        fail("cannot be opened", path);
    return file;
}

#if MODEL_WEIGHT_BYTES
/* CRC-32 as in zlib and PNG. */
static unsigned long crc32(const unsigned char *bytes, size_t count) {
    unsigned long table[256], crc = 0xFFFFFFFFUL;
    for (unsigned long i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] & 1 ? table[i] >> 1 ^ 0xEDB88320UL : table[i] >> 1;
    }
    for (size_t i = 0; i < count; i++)
        crc = table[(crc ^ bytes[i]) & 0xFF] ^ crc >> 8;
    return crc ^ 0xFFFFFFFFUL;
}

static void read_weights(const char *path) {
    FILE *file = open_file(path, "rb");
    weights = malloc(MODEL_WEIGHT_BYTES);
    if (!weights)
        fail("there is not enough memory for the weights", path);
    if (fread(weights, 1, MODEL_WEIGHT_BYTES, file) != MODEL_WEIGHT_BYTES || fgetc(file) != EOF ||
        crc32(weights, MODEL_WEIGHT_BYTES) != MODEL_WEIGHT_CRC32)
        fail("these are not the weights that the header describes", path);
    fclose(file);
}
#endif

static int check_golden(const char *path) {
    FILE *file = open_file(path, "rb");
    int same = 1;
    if (fread(image, sizeof(float), MODEL_INPUT, file) != MODEL_INPUT)
        fail("the file ends too early for this network", path);
    forward(file, path, &same);
    if (fgetc(file) != EOF)
        fail("the file is too long for this network", path);
    fclose(file);
    printf("%s %g of its largest value\n", same ? "every layer is within" : "a layer differs by more than", MODEL_TOLERANCE);
    return same ? 0 : 1;
}

static int write_logits(const char *images, const char *logits) {
    FILE *input = open_file(images, "rb"), *output = open_file(logits, "wb");
    size_t count;
    while ((count = fread(image, sizeof(float), MODEL_INPUT, input)) == MODEL_INPUT) {
        const float *y = forward(NULL, NULL, NULL);
        if (fwrite(y, sizeof(float), MODEL_CLASSES, output) != MODEL_CLASSES)
            fail("cannot be written", logits);
    }
    if (count)
        fail("does not hold whole images", images);
    fclose(input);
    if (fclose(output))
        fail("cannot be written", logits);
    return 0;
}

int main(int count, char **words) {
    const unsigned one = 1;
    int golden = count >= 3 && !strcmp(words[1], "golden");
    int needed = golden ? 3 : 4;
    if (*(const unsigned char *)&one != 1)
        fail("the files are little-endian, and this machine is not", words[0]);
    if (count < needed || count > needed + 1 || (!golden && strcmp(words[1], "logits"))) {
        fprintf(stderr, "usage: %s golden FILE [WEIGHTS]\n       %s logits IMAGES LOGITS [WEIGHTS]\n", words[0], words[0]);
        return 2;
    }
#if MODEL_WEIGHT_BYTES
    read_weights(count > needed ? words[needed] : MODEL_WEIGHT_FILE);
#endif
    int status = golden ? check_golden(words[2]) : write_logits(words[2], words[3]);
    free(weights);
    return status;
}
