# The plugin of fused CUDA kernels, by nvcc alone: it needs neither LibTorch nor CMake's CUDA language, whose flags the
# torch package sets where its wheel has CUDA. Sets IDISTILL_CUDA_SUMMARY, and idistill_cuda_built.
set(IDISTILL_CUDA AUTO CACHE STRING "AUTO (where nvcc is), ON or OFF: the plugin of fused CUDA kernels")
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
  # Spilled registers are a defect: ptxas then fails.
  add_custom_command(OUTPUT ${plugin}
    COMMAND ${IDISTILL_NVCC} -ccbin ${CMAKE_CXX_COMPILER} -std=c++17 -O3 ${idistill_cuda_flags} -Xptxas -warn-spills,-Werror
            -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra --cudart static -shared -t 2
            ${CMAKE_CURRENT_LIST_DIR}/kernels_cuda.cu -o ${plugin}
    DEPENDS ${CMAKE_CURRENT_LIST_DIR}/kernels_cuda.cu ${headers}
    COMMENT "CUDA kernels for ${IDISTILL_CUDA_SUMMARY}" VERBATIM)
  add_custom_target(idistill_cuda ALL DEPENDS ${plugin})
endif()
