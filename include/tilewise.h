/*
 * tilewise: fast neural-network training and inference on CPUs.
 *
 * Version. A program that was compiled with the header of one ABI must not use a library of
 * another: structs, parameters or enumerators may differ. Check TILEWISE_ABI_MATCHES() before anything
 * else; if it is 0, call nothing but tilewise_version and tilewise_abi_version, and compile the
 * program again with the header of the library that it runs with. Languages that do not read this
 * header compare the result of tilewise_abi_version with the number that they were written for.
 *
 * Errors. Every function that can fail returns a status; TILEWISE_STATUS_OK is 0. After any
 * other, tilewise_last_error() returns a text that says what was wrong and what is allowed, and the
 * outputs are unchanged. Null pointers, sizes, strides, enumerators, labels, files and
 * overlaps of matrices are checked. What cannot be detected: a pointer that is neither null nor
 * valid, a handle that was destroyed, an array shorter than its stated length. Panics do not
 * leave the library: they print a line on standard error and return TILEWISE_STATUS_INTERNAL.
 *
 * Arguments. Sizes and strides count elements. Enumerators are passed as integers. Memory that is
 * written must not overlap memory that is read; it need not be initialized.
 *
 * Handles. The caller owns what a function creates and must pass it to the function that destroys
 * its kind; handles may be destroyed in any order. Structs and arrays are read during the call and
 * not kept, except for the name in tilewise_optimizer_settings.
 *
 * Threads. Only tilewise_pool_create starts threads. Work runs on the calling thread, or on
 * the pool that a handle was created with; calls return when it is done. Handles may move between
 * threads. tilewise_predictor, tilewise_packed_* and tilewise_pool may be used by any number of
 * threads at once; calls that use the same pool take turns. tilewise_gemm_*, tilewise_scratch and
 * tilewise_trainer may be used by one thread at a time; a second gets TILEWISE_STATUS_BUSY. A handle
 * must not be used while it is being destroyed. Pools do not survive fork(). The bits of a result do
 * not depend on the number of threads.
 */


#ifndef TILEWISE_H
#define TILEWISE_H

/* Made from src/capi by cbindgen: change it there. */

#include <stddef.h>
#include <stdint.h>

/* 1 if the library that the program runs with has the ABI of this header, else 0. */
#define TILEWISE_ABI_MATCHES() (tilewise_abi_version() == TILEWISE_ABI_VERSION)

// Number of the ABI that this header declares: structs, parameters, enumerators and their
// meanings. It changes whenever one of these changes, but not when functions are added.
#define TILEWISE_ABI_VERSION 2

// The result of a call.
typedef enum tilewise_status {
  // Success.
  TILEWISE_STATUS_OK = 0,
  // A pointer is null or not aligned.
  TILEWISE_STATUS_POINTER = 1,
  // Sizes, lengths or strides do not fit each other or the address space.
  TILEWISE_STATUS_SHAPE = 2,
  // A setting, a label or an enumerator has an invalid value, an operand or scratch was made for
  // something else, or memory that is written overlaps memory that is read.
  TILEWISE_STATUS_SETTING = 3,
  // Out of memory.
  TILEWISE_STATUS_MEMORY = 4,
  // The content of a file is invalid or does not fit the handle.
  TILEWISE_STATUS_FILE = 5,
  // The operating system refused to read or write a file.
  TILEWISE_STATUS_IO = 6,
  // The loss is not finite; nothing was updated.
  TILEWISE_STATUS_DIVERGED = 7,
  // This machine lacks the instruction set that `TILEWISE_ISA` names, or cannot start threads.
  TILEWISE_STATUS_UNAVAILABLE = 8,
  // Another thread is using a handle that one thread at a time may use.
  TILEWISE_STATUS_BUSY = 9,
  // A bug in tilewise. Handles that were used in the call, and that only one thread at a time may
  // use, can only be destroyed.
  TILEWISE_STATUS_INTERNAL = 10,
} tilewise_status;

// The operation on each finished sum of a product.
typedef enum tilewise_finish {
  // Store it.
  TILEWISE_FINISH_STORE = 0,
  // ReLU: store it if it is above 0, else 0; NaN stays NaN.
  TILEWISE_FINISH_RELU = 1,
  // Store it if the activation is above 0, else 0: the gradient of a ReLU.
  TILEWISE_FINISH_GATE = 2,
} tilewise_finish;

// The distribution of initial weights. Biases start at 0.
typedef enum tilewise_init {
  // Normal with variance 2 / inputs of the layer (He et al. 2015).
  TILEWISE_INIT_HE = 0,
  // Normal with variance 2 / (inputs + outputs) of the layer (Glorot and Bengio 2010).
  TILEWISE_INIT_XAVIER = 1,
  // Normal with standard deviation `weight_scale`.
  TILEWISE_INIT_NORMAL = 2,
} tilewise_init;

// The numbers that a network computes with.
typedef enum tilewise_precision {
  // f32.
  TILEWISE_PRECISION_F32 = 0,
  // bf16 operands and layer outputs; f32 parameters, sums, logits and loss.
  TILEWISE_PRECISION_BF16 = 1,
} tilewise_precision;

// A plan for products, with the memory that they need. Only one thread at a time may use it.
typedef struct tilewise_gemm_f32 tilewise_gemm_f32;

// A plan for products, with the memory that they need. Only one thread at a time may use it.
typedef struct tilewise_gemm_f64 tilewise_gemm_f64;

// An operand packed as A or B, for use in many products. It holds a copy of its matrix. Any number
// of threads may use it at once.
typedef struct tilewise_packed_f32 tilewise_packed_f32;

// An operand packed as A or B, for use in many products. It holds a copy of its matrix. Any number
// of threads may use it at once.
typedef struct tilewise_packed_f64 tilewise_packed_f64;

// Threads that share the work of one call. Any number of threads may use a pool; their calls take
// turns.
typedef struct tilewise_pool tilewise_pool;

// A network for inference, with packed weights. It never changes: any number of threads may use it
// at once, each with its own scratch.
typedef struct tilewise_predictor tilewise_predictor;

// Memory for one prediction at a time. Only one thread at a time may use it.
typedef struct tilewise_scratch tilewise_scratch;

// A network in training, with the memory that a step needs. Only one thread at a time may use it.
typedef struct tilewise_trainer tilewise_trainer;

// A matrix to be read: element (i, j) is `data[i * row_stride + j * col_stride]`. Strides count
// elements and may be negative or 0. A matrix without elements may have null for data.
typedef struct tilewise_matrix_f32 {
  // Element (0, 0).
  const float *data;
  // Number of rows.
  size_t rows;
  // Number of columns.
  size_t cols;
  // Elements from one row to the next.
  ptrdiff_t row_stride;
  // Elements from one column to the next.
  ptrdiff_t col_stride;
} tilewise_matrix_f32;

// A or B of a product: `packed` if that is not null, else `matrix`.
typedef struct tilewise_operand_f32 {
  // The elements.
  struct tilewise_matrix_f32 matrix;
  // The packed operand, or null.
  const struct tilewise_packed_f32 *packed;
} tilewise_operand_f32;

// A matrix to be written. Its elements need not be initialized, unless a function reads them. No
// two of them are the same. Memory between its elements is neither read nor written, and other
// threads may use it; the other arguments of the same call must be outside of the memory from its
// lowest to its highest element.
typedef struct tilewise_matrix_mut_f32 {
  // Element (0, 0).
  float *data;
  // Number of rows.
  size_t rows;
  // Number of columns.
  size_t cols;
  // Elements from one row to the next.
  ptrdiff_t row_stride;
  // Elements from one column to the next.
  ptrdiff_t col_stride;
} tilewise_matrix_mut_f32;

// The start values of a product's sums, and the operation before they are stored. All zeros: only
// the product.
typedef struct tilewise_epilogue_f32 {
  // Factor of the old C. With 0, C is not read. It must be 0 if there is a bias.
  float beta;
  // One number for each column of C to start from, or null.
  const float *bias;
  // A `tilewise_finish`.
  int32_t finish;
  // For `TILEWISE_FINISH_GATE`: the activation, with the shape of C and contiguous columns.
  struct tilewise_matrix_f32 activation;
} tilewise_epilogue_f32;

// A matrix to be read: element (i, j) is `data[i * row_stride + j * col_stride]`. Strides count
// elements and may be negative or 0. A matrix without elements may have null for data.
typedef struct tilewise_matrix_f64 {
  // Element (0, 0).
  const double *data;
  // Number of rows.
  size_t rows;
  // Number of columns.
  size_t cols;
  // Elements from one row to the next.
  ptrdiff_t row_stride;
  // Elements from one column to the next.
  ptrdiff_t col_stride;
} tilewise_matrix_f64;

// A or B of a product: `packed` if that is not null, else `matrix`.
typedef struct tilewise_operand_f64 {
  // The elements.
  struct tilewise_matrix_f64 matrix;
  // The packed operand, or null.
  const struct tilewise_packed_f64 *packed;
} tilewise_operand_f64;

// A matrix to be written. Its elements need not be initialized, unless a function reads them. No
// two of them are the same. Memory between its elements is neither read nor written, and other
// threads may use it; the other arguments of the same call must be outside of the memory from its
// lowest to its highest element.
typedef struct tilewise_matrix_mut_f64 {
  // Element (0, 0).
  double *data;
  // Number of rows.
  size_t rows;
  // Number of columns.
  size_t cols;
  // Elements from one row to the next.
  ptrdiff_t row_stride;
  // Elements from one column to the next.
  ptrdiff_t col_stride;
} tilewise_matrix_mut_f64;

// The start values of a product's sums, and the operation before they are stored. All zeros: only
// the product.
typedef struct tilewise_epilogue_f64 {
  // Factor of the old C. With 0, C is not read. It must be 0 if there is a bias.
  double beta;
  // One number for each column of C to start from, or null.
  const double *bias;
  // A `tilewise_finish`.
  int32_t finish;
  // For `TILEWISE_FINISH_GATE`: the activation, with the shape of C and contiguous columns.
  struct tilewise_matrix_f64 activation;
} tilewise_epilogue_f64;

// The conversion of bytes to numbers: `byte * scale + shift`, with a scale and a shift for each channel of
// images that are stored channel by channel.
typedef struct tilewise_normalization {
  // One factor for each channel.
  const double *scale;
  // One summand for each channel.
  const double *shift;
  // Number of channels.
  size_t channels;
} tilewise_normalization;

// The shape of one example: a row of a batch.
typedef struct tilewise_shape {
  // Number of values.
  size_t features;
  // Height of an image; 0 for a plain vector.
  size_t height;
  // Width of an image, else 0.
  size_t width;
  // Channels of an image, contiguous for each pixel, else 0.
  size_t channels;
} tilewise_shape;

// An optimizer and its settings. Only the settings of the optimizer are read.
// `tilewise_optimizer_init` sets PyTorch's defaults.
typedef struct tilewise_optimizer_settings {
  // "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam" or "adamw".
  const char *name;
  // Of momentum, nesterov and rmsprop: momentum coefficient.
  double momentum;
  // Of rmsprop: decay of the mean square (PyTorch's alpha).
  double decay;
  // Of adam and adamw: decay of the mean gradient.
  double beta1;
  // Of adam and adamw: decay of the mean square.
  double beta2;
  // Of adagrad, rmsprop, adam and adamw: added to the root, above 0.
  double epsilon;
  // Weight decay, of weights and not of biases.
  double weight_decay;
} tilewise_optimizer_settings;

// A multilayer perceptron to be trained: linear layers with ReLU and dropout between them.
typedef struct tilewise_network {
  // Features of an example, sizes of the hidden layers, and the number of classes.
  const size_t *dims;
  // Number of sizes, 2 or more.
  size_t dims_len;
  // A `tilewise_init`.
  int32_t init;
  // Standard deviation of the weights, for `TILEWISE_INIT_NORMAL`.
  double weight_scale;
  // Probability of dropping a hidden activation in training, from 0 to below 1.
  double dropout;
  // Seed of the weights and of dropout.
  uint64_t seed;
} tilewise_network;

// Settings of a trainer.
typedef struct tilewise_trainer_settings {
  // Rows of the largest batch.
  size_t batch_size;
  // Learning rate of the first step.
  double learning_rate;
  // Label smoothing, from 0 to below 1.
  double label_smoothing;
  // L2 regularization: factor of the sum of all squared weights in the loss.
  double l2;
  // Gradient clipping: largest L2 norm of all gradients together; 0: no clipping.
  double clip_norm;
  // A `tilewise_precision`.
  int32_t precision;
} tilewise_trainer_settings;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// ABI number of the library. A program that was compiled with another
// `TILEWISE_ABI_VERSION` must not use the library: see `TILEWISE_ABI_MATCHES`.
uint32_t tilewise_abi_version(void);

// The version of the library, such as "0.1.0".
const char *tilewise_version(void);

// The name of the instruction set in use, "avx512bf16", "avx512", "avx2" or "portable", into
// `name`, which stays valid as long as the library is loaded.
enum tilewise_status tilewise_instruction_set(const char **name);

// The text of the last error on the calling thread, in UTF-8; empty if there was none. It lives
// until the next call on this thread that fails, or the end of the thread. A successful call does
// not change it.
const char *tilewise_last_error(void);

// Plans f32 products of up to these sizes into `gemm`: A is (m, k), B (k, n), C (m, n). They run
// on the threads of `pool`, or on the calling thread if that is null.
enum tilewise_status tilewise_gemm_f32_create(const struct tilewise_pool *pool,
                                              size_t m,
                                              size_t n,
                                              size_t k,
                                              struct tilewise_gemm_f32 **gemm);

// Same as `tilewise_gemm_f32_create`, for f64.
enum tilewise_status tilewise_gemm_f64_create(const struct tilewise_pool *pool,
                                              size_t m,
                                              size_t n,
                                              size_t k,
                                              struct tilewise_gemm_f64 **gemm);

// Destroys a plan; null does nothing.
void tilewise_gemm_f32_destroy(struct tilewise_gemm_f32 *gemm);

// Destroys a plan; null does nothing.
void tilewise_gemm_f64_destroy(struct tilewise_gemm_f64 *gemm);

// `C = finish(start + alpha A B)`, without allocating. With `alpha` 0 neither A nor B is read;
// with a packed A it is 1. `epilogue` may be null: only the product. The memory of C must not
// overlap memory that is read. Unless C is read, it need not be initialized. The bits of the
// result do not depend on threads, packing or strides. An epilogue with a bias
// or a gate needs a C whose columns are contiguous.
enum tilewise_status tilewise_gemm_f32_run(struct tilewise_gemm_f32 *gemm,
                                           float alpha,
                                           const struct tilewise_operand_f32 *a,
                                           const struct tilewise_operand_f32 *b,
                                           const struct tilewise_matrix_mut_f32 *c,
                                           const struct tilewise_epilogue_f32 *epilogue);

// Same as `tilewise_gemm_f32_run`, for f64.
enum tilewise_status tilewise_gemm_f64_run(struct tilewise_gemm_f64 *gemm,
                                           double alpha,
                                           const struct tilewise_operand_f64 *a,
                                           const struct tilewise_operand_f64 *b,
                                           const struct tilewise_matrix_mut_f64 *c,
                                           const struct tilewise_epilogue_f64 *epilogue);

// Packs `scale * a` as A of products, into `packed`.
enum tilewise_status tilewise_pack_a_f32(float scale,
                                         const struct tilewise_matrix_f32 *a,
                                         struct tilewise_packed_f32 **packed);

// Same as `tilewise_pack_a_f32`, for f64.
enum tilewise_status tilewise_pack_a_f64(double scale,
                                         const struct tilewise_matrix_f64 *a,
                                         struct tilewise_packed_f64 **packed);

// Packs `b` as B of products, into `packed`.
enum tilewise_status tilewise_pack_b_f32(const struct tilewise_matrix_f32 *b,
                                         struct tilewise_packed_f32 **packed);

// Same as `tilewise_pack_b_f32`, for f64.
enum tilewise_status tilewise_pack_b_f64(const struct tilewise_matrix_f64 *b,
                                         struct tilewise_packed_f64 **packed);

// Destroys a packed operand; null does nothing.
void tilewise_packed_f32_destroy(struct tilewise_packed_f32 *packed);

// Destroys a packed operand; null does nothing.
void tilewise_packed_f64_destroy(struct tilewise_packed_f64 *packed);

// Starts a pool of `threads` threads, 1 or more, into `pool`.
enum tilewise_status tilewise_pool_create(size_t threads, struct tilewise_pool **pool);

// Releases a pool; null does nothing. Its threads end when all handles created with it have also
// been destroyed; the last call waits for them.
void tilewise_pool_destroy(struct tilewise_pool *pool);

// Loads a network from a safetensors file, saved by tilewise or from the `state_dict` of a PyTorch
// `nn.Sequential`, into `predictor`. `path` is UTF-8. `normalization` converts bytes to
// numbers; null: that of the file, and if it has none, the predictor accepts no images.
//
// It computes in bf16 if the network was trained in bf16, or, where the file does not say, if all
// weights in it are BF16; else in f32.
enum tilewise_status tilewise_predictor_load(const char *path,
                                             const struct tilewise_normalization *normalization,
                                             struct tilewise_predictor **predictor);

// Same as `tilewise_predictor_load`, in a precision of the caller's choice, a `tilewise_precision`.
enum tilewise_status tilewise_predictor_load_in(const char *path,
                                                const struct tilewise_normalization *normalization,
                                                int32_t precision,
                                                struct tilewise_predictor **predictor);

// Destroys a predictor; null does nothing. Its scratches remain valid for any predictor of the same
// layers.
void tilewise_predictor_destroy(struct tilewise_predictor *predictor);

// The shape of one example, into `shape`.
enum tilewise_status tilewise_predictor_input(const struct tilewise_predictor *predictor,
                                              struct tilewise_shape *shape);

// The number of classes, and so of logits for each example, into `classes`.
enum tilewise_status tilewise_predictor_classes(const struct tilewise_predictor *predictor,
                                                size_t *classes);

// Whether the predictor accepts images of bytes, 1 or 0, into `takes`.
enum tilewise_status tilewise_predictor_takes_images(const struct tilewise_predictor *predictor,
                                                     int32_t *takes);

// The precision that the predictor computes in, a `tilewise_precision`, into `precision`.
enum tilewise_status tilewise_predictor_precision(const struct tilewise_predictor *predictor,
                                                  int32_t *precision);

// Memory for predictions of `capacity` rows at a time, 1 or more, into `scratch`. They run on the
// threads of `pool`, or on the calling thread if that is null.
enum tilewise_status tilewise_scratch_create(const struct tilewise_predictor *predictor,
                                             const struct tilewise_pool *pool,
                                             size_t capacity,
                                             struct tilewise_scratch **scratch);

// Destroys a scratch; null does nothing.
void tilewise_scratch_destroy(struct tilewise_scratch *scratch);

// The logits of the rows of `x`, (batch, features), into `logits`, (batch, classes), whose columns
// are contiguous. Nothing is allocated. A batch larger than the scratch's capacity is computed in
// parts. A row's logits have the same bits in any batch and on any number of threads.
enum tilewise_status tilewise_predict(const struct tilewise_predictor *predictor,
                                      struct tilewise_scratch *scratch,
                                      const struct tilewise_matrix_f32 *x,
                                      const struct tilewise_matrix_mut_f32 *logits);

// Same as `tilewise_predict`, for `batch` contiguous images of bytes, each with as many bytes as an
// example has features. The predictor's normalization converts them to numbers.
enum tilewise_status tilewise_predict_images(const struct tilewise_predictor *predictor,
                                             struct tilewise_scratch *scratch,
                                             const uint8_t *images,
                                             size_t batch,
                                             const struct tilewise_matrix_mut_f32 *logits);

// Turns logits, (batch, classes), into probabilities, in place: `exp(logit - largest)` divided by
// the sum of these in the row. Columns are contiguous. Rows with NaN or an infinite largest logit
// become NaN. Nothing is allocated.
enum tilewise_status tilewise_softmax(const struct tilewise_matrix_mut_f32 *logits);

// The classes with the largest of the `classes` values of a row, best first, into `best`, which
// has room for `k`; the first of equals comes first, and NaN last. Their number, the smaller of
// `classes` and `k`, goes into `found`, their values into `best_values`, which has room for `k`
// or is null. These arrays must not overlap. Nothing is allocated.
enum tilewise_status tilewise_top_k(const float *row,
                                    size_t classes,
                                    size_t k,
                                    size_t *best,
                                    float *best_values,
                                    size_t *found);

// The default settings of the optimizer `name` into `settings`, which keeps the pointer `name`.
enum tilewise_status tilewise_optimizer_init(const char *name,
                                             struct tilewise_optimizer_settings *settings);

// Makes a network and plans its training, into `trainer`. Steps run on the threads of `pool`, or
// on the calling thread if that is null; the same seed gives the same bits on any number
// of threads.
enum tilewise_status tilewise_trainer_create(const struct tilewise_network *network,
                                             const struct tilewise_optimizer_settings *optimizer,
                                             const struct tilewise_trainer_settings *settings,
                                             const struct tilewise_pool *pool,
                                             struct tilewise_trainer **trainer);

// Same as `tilewise_trainer_create`, for the network in a model file, with its layers and parameters:
// a file from `tilewise_trainer_save` or `tilewise train`, or a PyTorch state dict as for
// `tilewise_predictor_load`. `seed` is that of dropout. `path` is UTF-8.
enum tilewise_status tilewise_trainer_create_from_file(const char *path,
                                                       uint64_t seed,
                                                       const struct tilewise_optimizer_settings *optimizer,
                                                       const struct tilewise_trainer_settings *settings,
                                                       const struct tilewise_pool *pool,
                                                       struct tilewise_trainer **trainer);

// Destroys a trainer; null does nothing.
void tilewise_trainer_destroy(struct tilewise_trainer *trainer);

// One step on a batch `x`, (batch, features), with a label for each of its rows, from 0 to below
// the number of classes. The mean loss of the batch before the update, with its L2 term, goes into
// `loss`, which may be null. Nothing is allocated.
enum tilewise_status tilewise_trainer_step(struct tilewise_trainer *trainer,
                                           const struct tilewise_matrix_f32 *x,
                                           const uint32_t *labels,
                                           size_t labels_len,
                                           double *loss);

// Sets the learning rate of the next steps.
enum tilewise_status tilewise_trainer_set_learning_rate(struct tilewise_trainer *trainer,
                                                        double learning_rate);

// The number of steps so far, including those before a loaded checkpoint, into `steps`: a loop over
// batches continues there.
enum tilewise_status tilewise_trainer_steps(const struct tilewise_trainer *trainer,
                                            uint64_t *steps);

// Saves the network with its current parameters as a model file: safetensors that a PyTorch
// `nn.Sequential` loads, with the layers, and with `normalization` unless that is null. Use it for
// predictions, and for further training with a new optimizer; use a checkpoint to resume. `path` is
// UTF-8. The file is replaced atomically.
enum tilewise_status tilewise_trainer_save(const struct tilewise_trainer *trainer,
                                           const char *path,
                                           const struct tilewise_normalization *normalization);

// Same as `tilewise_trainer_save`, with weights in `precision`, a `tilewise_precision`: bf16 takes
// half the memory. The weights are rounded to nearest even; biases stay in f32.
enum tilewise_status tilewise_trainer_save_in(const struct tilewise_trainer *trainer,
                                              const char *path,
                                              const struct tilewise_normalization *normalization,
                                              int32_t precision);

// Saves a checkpoint: parameters, the optimizer's state, the number of steps and the
// current learning rate. `path` is UTF-8. The file is replaced atomically.
enum tilewise_status tilewise_trainer_save_checkpoint(const struct tilewise_trainer *trainer,
                                                      const char *path);

// Restores the state in a checkpoint: steps on the same batches then have the same bits as without
// the interruption. `trainer` was created with the same network and settings;
// threads, batch size and learning rate may differ, and the learning rate becomes that of the
// checkpoint. `path` is UTF-8.
enum tilewise_status tilewise_trainer_load_checkpoint(struct tilewise_trainer *trainer,
                                                      const char *path);

// Makes a predictor of the network with its current parameters, in the trainer's precision, into
// `predictor`; further steps do not change it. `normalization` converts bytes to numbers; null: it accepts no images.
enum tilewise_status tilewise_trainer_predictor(const struct tilewise_trainer *trainer,
                                                const struct tilewise_normalization *normalization,
                                                struct tilewise_predictor **predictor);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TILEWISE_H */
