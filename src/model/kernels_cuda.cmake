# The plugin of fused CUDA kernels, by nvcc alone: it needs neither LibTorch nor CMake's CUDA language, whose flags the
# torch package sets where its wheel has CUDA. Sets IDISTILL_CUDA_SUMMARY, and idistill_cuda_built.
set(IDISTILL_CUDA AUTO CACHE STRING "AUTO (where nvcc works), ON or OFF: the plugin of fused CUDA kernels")
set_property(CACHE IDISTILL_CUDA PROPERTY STRINGS AUTO ON OFF)
set(IDISTILL_CUDA_ARCHITECTURES "80;90" CACHE STRING "compute capabilities with machine code in the plugin; newer ones have the last one's PTX")

set(idistill_cuda_built OFF)
set(IDISTILL_CUDA_SUMMARY "not wanted")
if(IDISTILL_CUDA)
  find_program(IDISTILL_NVCC nvcc HINTS ${CUDAToolkit_ROOT} $ENV{CUDAToolkit_ROOT} $ENV{CUDA_HOME} $ENV{CUDA_PATH} /usr/local/cuda
               PATH_SUFFIXES bin)
  set(IDISTILL_CUDA_SUMMARY "no nvcc")
  if(IDISTILL_NVCC)
    execute_process(COMMAND ${IDISTILL_NVCC} --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
    set(idistill_cuda_flags)
    set(IDISTILL_CUDA_SUMMARY)
    foreach(architecture IN LISTS IDISTILL_CUDA_ARCHITECTURES)
      list(APPEND idistill_cuda_flags -gencode=arch=compute_${architecture},code=sm_${architecture})
      if(NOT known MATCHES "sm_${architecture}[^0-9a-z]")
        set(IDISTILL_CUDA_SUMMARY "${IDISTILL_NVCC} knows no sm_${architecture}")
      endif()
    endforeach()
    list(GET IDISTILL_CUDA_ARCHITECTURES -1 newest)
    list(APPEND idistill_cuda_flags -gencode=arch=compute_${newest},code=compute_${newest})
    # Spilled registers are a defect of ours, which tests/python/test_cuda_kernels.py finds, and no reason to stop a set-up.
    set(spills -warn-spills)
    if(NOT IDISTILL_CUDA STREQUAL AUTO)
      string(APPEND spills ,-Werror)
    endif()
    set(idistill_nvcc ${IDISTILL_NVCC} -ccbin ${CMAKE_CXX_COMPILER} -std=c++17 -O3 ${idistill_cuda_flags} -Xptxas ${spills}
        -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra --cudart static -shared -t 2)
    # nvcc refuses compilers that are newer than it, and lacks parts of the toolkit in places: tried once for a command.
    if(NOT IDISTILL_CUDA_SUMMARY AND NOT IDISTILL_CUDA_TRIED STREQUAL "${idistill_nvcc}")
      set(trial ${PROJECT_BINARY_DIR}/cuda_trial)
      file(WRITE ${trial}.cu "#include <cuda_runtime.h>\n__global__ void one(float* x) { *x = 1.0F; }\n"
                             "int launch(float* x) { one<<<1, 1>>>(x); return cudaGetLastError(); }\n")
      execute_process(COMMAND ${idistill_nvcc} ${trial}.cu -o ${trial}.so RESULT_VARIABLE failed
                      OUTPUT_VARIABLE said ERROR_VARIABLE said)
      file(REMOVE ${trial}.cu ${trial}.so)
      if(failed)
        string(REGEX MATCH "[^\n]*([Ee]rror|not found|unsupported)[^\n]*" said "${said}")
        set(IDISTILL_CUDA_SUMMARY "${IDISTILL_NVCC} with ${CMAKE_CXX_COMPILER} fails: ${said}")
        unset(IDISTILL_CUDA_TRIED CACHE)
      else()
        set(IDISTILL_CUDA_TRIED "${idistill_nvcc}" CACHE INTERNAL "the command of nvcc that worked")
      endif()
    endif()
    if(NOT IDISTILL_CUDA_SUMMARY)
      set(idistill_cuda_built ON)
      list(JOIN IDISTILL_CUDA_ARCHITECTURES ", sm_" IDISTILL_CUDA_SUMMARY)
      string(PREPEND IDISTILL_CUDA_SUMMARY "sm_")
    endif()
  endif()
  if(NOT idistill_cuda_built AND NOT IDISTILL_CUDA STREQUAL AUTO)
    message(FATAL_ERROR "IDISTILL_CUDA is ${IDISTILL_CUDA}, and the CUDA kernels cannot be built: ${IDISTILL_CUDA_SUMMARY}. "
                        "Set CUDAToolkit_ROOT or IDISTILL_NVCC, or IDISTILL_CUDA_ARCHITECTURES; without them, PyTorch's operations serve on GPUs.")
  endif()
endif()

if(idistill_cuda_built)
  set(plugin ${PROJECT_BINARY_DIR}/libidistill_cuda.so)
  file(GLOB headers CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/kernels_*.hpp)
  add_custom_command(OUTPUT ${plugin}
    COMMAND ${idistill_nvcc} ${CMAKE_CURRENT_LIST_DIR}/kernels_cuda.cu -o ${plugin}
    DEPENDS ${CMAKE_CURRENT_LIST_DIR}/kernels_cuda.cu ${headers}
    COMMENT "CUDA kernels for ${IDISTILL_CUDA_SUMMARY}" VERBATIM)
  add_custom_target(idistill_cuda ALL DEPENDS ${plugin})
endif()
